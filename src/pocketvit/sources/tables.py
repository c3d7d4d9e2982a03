"""A CSV of file names and labels, for images in a folder."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import PocketError
from .arrays import one_of_many
from .columns import Columns, called_like, find_columns, is_usual, known, present
from .folders import SPLIT_NAMES, find_files, images_among, is_image, normalized
from .grades import are_grades, in_order
from .listing import Files, Listing
from .targets import several

_MOST_BYTES = 1 << 30  # of a table
_MOST_CELL = 1 << 20  # characters of a cell


@dataclass(frozen=True)
class _Row:
    """What a table says of one image: its label, or several of 0 and 1 ("" where unknown)."""

    labels: tuple[str, ...]
    split: str
    group: str
    line: int


@dataclass(frozen=True)
class _Table:
    """Rows with their line numbers, and where the columns are."""

    rows: list[tuple[int, list[str]]]
    columns: Columns
    titles: list[str]


def has_column(table: object, heading: str) -> bool:
    """Whether something that is given as images is a table with such a column."""
    if not isinstance(table, str | Path) or Path(table).suffix.lower() not in (".csv", ".tsv"):
        return False
    return bool(called_like(_rows(Path(table).expanduser())[0][1], heading))


def list_table(table: Path, folder: Path, group: str | None = None) -> Listing:
    """List the images that a CSV names, relative to ``folder``, with their labels and (if it has the column) split.

    Columns are found by their heading (file, image, ... and label, class, ... or one that ends so; split); without a
    heading the first is the file and the second the label. Without a column of labels all columns that hold only 0 and
    1 are labels, several an image (a single one: two classes); so are labels in one cell with | or ; between; else the
    only column beside the names, if its values repeat. Where that leaves no doubt a name may lack its ending or its
    folders, or differ in capitals; it may have folders in front that are not here, or be a whole path. Whole numbers
    lose their ".0". Rows without a label are unlabelled.

    Args:
        group: heading of the column whose equal cells stay on one side of every split ("patient" for Patient ID, too).
            Without one it is that of patients, where there is one and some have several images.

    Raises:
        PocketError: no such columns, or several that may be meant; an image with two labels; none of the files exists.
    """
    read = _read(table, group)
    unasked = False
    if read.columns.group is not None:
        group, unasked = read.titles[read.columns.group], group is None
    files = images_among(find_files(folder))
    loosely = _by_loose_name(files)
    found: dict[str, _Row] = {}
    missing: list[tuple[str, str]] = []
    for line, cells in read.rows:
        given = normalized(cells[read.columns.name].strip().replace("\\", "/"))
        name = _find(given, files, loosely)
        if name is None:
            doubt = given in loosely
            why = "fits several files; give its folder" if doubt else f"is named in {table.name} but is not there"
            missing.append((given or f"line {line}", why))
            continue
        row = _row(read, table, line, cells)
        if name in found:
            _refuse_two(table, name, found[name], row, group)
        found[name] = row
    if not found:
        raise PocketError(
            f"none of the {len(missing)} files that {table} names is in {folder} ({missing[0][0]} for one): "
            "give the folder that the names start from"
        )
    notes = []
    if len(found) < len(files):
        notes.append(f"{len(files) - len(found):,} images in {folder.name} are not in {table.name} and were left out")
    unlabelled = sum(not row.labels[0] for row in found.values())
    if unlabelled and unlabelled < len(found):
        what = f"{unlabelled:,} images have no label in {table.name}{_unknown_words(read)}"
        notes.append(f"{what}: they train without one")
    if read.columns.passed:
        notes.append(
            f"warning: {'; '.join(read.columns.passed[:3])} in {table.name}, and no label for that: give 0 or 1 alone"
        )
    if len(read.columns.labels) == 1 and not is_image(read.titles[0]):
        title = read.titles[read.columns.labels[0]]
        if not is_usual(title):
            notes.append(f"labels are those of the column {title!r}")
    names = sorted(found)
    keys = _keys(names)
    classes, targets, task = _labels(read, table, [found[name] for name in names], notes)
    single = ""
    if len(classes) == 1 and len(read.columns.labels) == 1:
        single = f"{table} has one label only, {classes[0]!r}{_unknown_words(read)}: two or more are needed"
    return Listing(
        name=folder.resolve().name or "images",
        classes=classes,
        names=names,
        keys=keys,
        splits=[found[name].split for name in names],
        targets=targets,
        images=Files([files[name] for name in names]),
        notes=notes,
        broken=missing,
        task=task,
        group=group,
        groups=[found[name].group for name in names] if group else None,
        unasked=unasked,
        single=single,
    )


def _labels(read: _Table, table: Path, rows: list[_Row], notes: list[str]) -> tuple[tuple[str, ...], np.ndarray, str]:
    """Return the classes, the targets ([N], or [N, C] of 0 and 1) and what they are."""
    if len(read.columns.labels) > 1:
        classes = tuple(read.titles[column] for column in read.columns.labels)
        notes.append(f"{table.name} has {len(classes)} labels per image, 0 or 1 each: {', '.join(classes)}")
        given = [[-1 if cell == "" else present(cell) for cell in row.labels] for row in rows]
        targets = one_of_many(np.array(given, np.int64), notes)
        if (targets < 0).all():
            return (), np.full(len(rows), -1, np.int64), "classification"
        return classes, targets, "multilabel" if several(targets) else "classification"
    hint, labels = read.titles[read.columns.labels[0]], [row.labels[0] for row in rows]
    if any(re.search("[|;]", label) for label in labels):
        return _in_cells(table, labels, notes)
    if all(re.fullmatch(r"-?\d+(\.0+)?|", label) for label in labels):  # pandas writes 1.0 where a cell is empty
        labels = [label.split(".")[0] for label in labels]
    _doubt(set(labels) - {""}, table, len(rows), notes)
    classes = _sorted_labels(set(labels) - {""}, hint)
    index = {label: target for target, label in enumerate(classes)}
    targets = np.array([index.get(label, -1) for label in labels], np.int64)
    return classes, targets, "ordinal" if are_grades(classes, hint) else "classification"


def _in_cells(table: Path, cells: list[str], notes: list[str]) -> tuple[tuple[str, ...], np.ndarray, str]:
    """Return the classes, the targets [N, C] and what they are, of labels with | or ; between them."""
    parts = [{part.strip() for part in re.split("[|;]", cell) if part.strip()} for cell in cells]
    classes = tuple(sorted(set().union(*parts)))
    notes.append(f"{table.name} has several labels in a cell, of {len(classes)}: {', '.join(classes[:8])}")
    targets = np.array([[label in some for label in classes] if some else [-1] * len(classes) for some in parts])
    return classes, targets.astype(np.int64), "multilabel"


def _doubt(labels: set[str], table: Path, rows: int, notes: list[str]) -> None:
    """Refuse labels that are no classes, and say which look like one class written in two ways."""
    numbers = _numbers(labels)
    if numbers is not None:
        if len(labels) > max(10, rows // 2) and any(number % 1 for number in numbers.values()):
            raise PocketError(
                f"{table} has {len(labels):,} different numbers as labels in {rows:,} rows, {min(labels)!r} for one: "
                "classes are needed. Put ranges of them into classes"
            )
        same = _alike(labels, lambda label: numbers[label])
        if same:
            raise PocketError(f"{table} has the labels {same}, which are the same number: write them alike")
    same = _alike(labels, lambda label: " ".join(label.casefold().split()))
    if same:
        notes.append(f"warning: the labels {same} of {table.name} are taken as different classes: are they one?")


def _numbers(labels: set[str]) -> dict[str, float] | None:
    try:
        return {label: float(label) for label in labels}
    except ValueError:
        return None


def _alike(labels: set[str], key: Callable[[str], Hashable]) -> str:
    """Return the first labels that are equal by a key, to be read; "" where none are."""
    by_key = defaultdict(list)
    for label in sorted(labels):
        by_key[key(label)].append(repr(label))
    return next((" and ".join(some) for some in by_key.values() if len(some) > 1), "")


def _find(given: str, files: dict[str, Path], loosely: dict[str, str | None]) -> str | None:
    """Return the file that a table's cell means: by its path, or less and less of it; else by a name without doubt."""
    if given in files:
        return given
    if os.path.isabs(given) and os.path.isfile(given) and is_image(given):
        for name in _ends(given):  # the folder's own file, called by its whole path
            if name in files and os.path.samefile(files[name], given):
                return name
        files[given] = Path(given)
        return given
    found = next((name for name in _ends(given) if name in files), None) or loosely.get(given.removeprefix("./"))
    return found or loosely.get(given.removeprefix("./").casefold())


def _ends(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _keys(names: list[str]) -> list[str]:
    """Return what samples are known by on any machine: whole paths lose the folders that all of them share."""
    whole = [name for name in names if os.path.isabs(name)]
    if not whole:
        return names
    shared = os.path.commonpath([os.path.dirname(name) for name in whole])
    return [os.path.relpath(name, shared).replace(os.sep, "/") if os.path.isabs(name) else name for name in names]


def _row(read: _Table, table: Path, line: int, cells: list[str]) -> _Row:
    labels = tuple(known(cells[column].strip()) for column in read.columns.labels)
    if any(labels) and not all(labels):
        empty = read.titles[read.columns.labels[labels.index("")]]
        raise PocketError(f"{table} line {line} has no value for {empty!r}: give 0 or 1, or leave all its labels empty")
    columns = read.columns
    split = "train" if columns.split is None else SPLIT_NAMES.get(cells[columns.split].strip().lower())
    if split is None:
        raise PocketError(f"{table} line {line} has the split {cells[columns.split or 0]!r}: use train, val or test")
    return _Row(labels, split, "" if columns.group is None else cells[columns.group].strip(), line)


def _unknown_words(read: _Table) -> str:
    """Return the words that were read as no label, to be said; "" where there are none."""
    written = {cells[column].strip() for _, cells in read.rows for column in read.columns.labels}
    words = ", ".join(sorted(cell for cell in written if cell and not known(cell)))
    return f" ({words}: not known)" if words else ""


def _refuse_two(table: Path, name: str, one: _Row, other: _Row, group: str | None) -> None:
    if (one.labels, one.split) != (other.labels, other.split):
        first, second = (row.labels[0] if len(row.labels) == 1 else ",".join(row.labels) for row in (one, other))
        raise PocketError(
            f"{table} gives {name} the label {first!r} in line {one.line} and {second!r} in line {other.line}: keep one"
        )
    if one.group != other.group:
        raise PocketError(
            f"{table} gives {name} the {group} {one.group!r} in line {one.line} and {other.group!r} in line "
            f"{other.line}: keep one"
        )


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """Read a table: the cells of every line that has any, with its number; the first one's without spaces."""
    if not table.exists():
        raise PocketError(f"there is no {table}: give a CSV file of names and labels")
    if not table.is_file() or table.stat().st_size > _MOST_BYTES:
        raise PocketError(f"{table} is no regular file of at most {_MOST_BYTES:,} bytes: give a CSV file")
    try:
        data = table.read_bytes()
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PocketError(f"{table} cannot be read as text ({error}): save it as CSV in UTF-8") from error
    first = text.split("\n", 1)[0]
    said = re.fullmatch(r"sep=([,;\t])", first.rstrip("\r"))  # as Excel is told
    delimiter = said[1] if said else Counter({mark: first.count(mark) for mark in ",;\t"}).most_common(1)[0][0]
    # Not split into lines here: a cell may hold any of the marks that Python takes as the end of one.
    before = csv.field_size_limit(_MOST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)][1 if said else 0 :]
    except csv.Error as error:
        raise PocketError(f"{table} is no CSV that can be read ({error}): save it as CSV in UTF-8") from error
    finally:
        csv.field_size_limit(before)
    if not rows or len(rows[0][1]) < 2:
        raise PocketError(f"{table} has no two columns: the first line should be like 'file,label'")
    return [(rows[0][0], [cell.strip() for cell in rows[0][1]]), *rows[1:]]


def _read(table: Path, group: str | None) -> _Table:
    """Read a table and find its columns."""
    rows = _rows(table)
    titles = rows[0][1]
    if is_image(titles[0]):
        if group is not None:
            raise PocketError(
                f"{table} has no headings, so no column {group!r}: give it a first line such as file,label,{group}"
            )
        found = _Table(rows, Columns(0, [1]), titles)
    else:
        found = _Table(rows[1:], find_columns(table, rows[1:], titles, group), titles)
    columns = found.columns
    needed = max(columns.name, *columns.labels, columns.split or 0, columns.group or 0)
    if not found.rows:
        raise PocketError(f"{table} has headings ({', '.join(titles[:6])}) and no rows: add a row per image")
    for line, row in found.rows:
        if len(row) <= needed:
            raise PocketError(f"{table} line {line} has {len(row)} columns of {len(titles)}: complete or delete it")
    return found


def _by_loose_name(files: dict[str, Path]) -> dict[str, str | None]:
    """Return each file by its name without folders, ending or capitals; None where several would fit."""
    loosely: dict[str, str | None] = {}
    for name in files:
        path = PurePosixPath(name)
        shorter = {path.name, path.stem, str(path.with_suffix(""))}
        for short in shorter | {one.casefold() for one in (name, *shorter)} - {name}:
            loosely[short] = name if short not in loosely else None
    return loosely


def _sorted_labels(labels: set[str], hint: str) -> tuple[str, ...]:
    """Sort labels as numbers where all of them are, as grades where they are called so, else as text."""
    numbers = _numbers(labels)
    return (
        in_order(labels, hint) if numbers is None else tuple(sorted(labels, key=lambda label: (numbers[label], label)))
    )
