"""A CSV of file names and labels, for images in a folder."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import PocketError
from .arrays import one_of_many
from .folders import SPLIT_NAMES, find_files, images_among, is_image, normalized
from .grades import are_grades, in_order
from .listing import Files, Listing
from .targets import several

_NAME_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_name", "image_id", "name", "id")
_LABEL_COLUMNS = (
    *("label", "labels", "class", "target", "category", "diagnosis", "y"),
    *("grade", "stage", "severity", "dx"),
)
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")
# Without anything but letters: Patient ID, patient_id, PatientID.
_PATIENT_COLUMNS = {
    *("patient", "patientid", "patientno", "patientnr", "patientnumber", "patientname"),
    *("subject", "subjectid", "participant", "participantid"),
}
_PRESENT = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}
# What spreadsheets and pandas write for it. "None" is Python's, "none" may be a grade.
_UNKNOWN = frozenset(("nan", "na", "n/a", "null", "<na>", "?"))
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
    name: int
    labels: list[int]
    split: int | None
    group: int | None
    titles: list[str]
    passed: tuple[str, ...] = ()  # columns that nearly hold labels of 0 and 1, and why they do not


def has_column(table: object, heading: str) -> bool:
    """Whether something that is given as images is a table with such a column."""
    if not isinstance(table, str | Path) or Path(table).suffix.lower() not in (".csv", ".tsv"):
        return False
    return heading.strip().lower() in [title.lower() for title in _rows(Path(table).expanduser())[0][1]]


def list_table(table: Path, folder: Path, group: str | None = None) -> Listing:
    """List the images that a CSV names, relative to ``folder``, with their labels and (if it has the column) split.

    Columns are found by their heading (file, image, ... and label, class, ... or one that ends so; split); without a
    heading the first is the file and the second the label. Without a column of labels all columns that hold only 0 and
    1 are labels, several an image (a single one: two classes); so are labels in one cell with | or ; between. A name
    may lack its ending or its folders where that leaves no doubt, have folders in front that are not here, or be a
    whole path. Rows without a label are unlabelled.

    Args:
        group: heading of the column whose equal cells stay on one side of every split. Without one it is that of
            patients, where there is one and some have several images.

    Raises:
        PocketError: no such columns, an image with two labels, or none of the files exists.
    """
    read = _read(table, group)
    unasked = False
    if group is None and read.group is not None:
        group, unasked = read.titles[read.group], True
    files = images_among(find_files(folder))
    loosely = _by_loose_name(files)
    found: dict[str, _Row] = {}
    missing: list[tuple[str, str]] = []
    for line, cells in read.rows:
        given = normalized(cells[read.name].strip().replace("\\", "/"))
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
    if read.passed:
        notes.append(f"warning: {'; '.join(read.passed[:3])} in {table.name}, and no label for that: give 0 or 1 alone")
    if len(read.labels) == 1 and not is_image(read.titles[0]):
        title = read.titles[read.labels[0]]
        if title.lower() not in _LABEL_COLUMNS:
            notes.append(f"labels are those of the column {title!r}")
    names = sorted(found)
    keys = _keys(names)
    classes, targets, task = _labels(read, table, [found[name] for name in names], notes)
    single = ""
    if len(classes) == 1 and len(read.labels) == 1:
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
    if len(read.labels) > 1:
        classes = tuple(read.titles[column] for column in read.labels)
        notes.append(f"{table.name} has {len(classes)} labels per image, 0 or 1 each: {', '.join(classes)}")
        given = [[_PRESENT.get(cell, -1) for cell in row.labels] for row in rows]
        targets = one_of_many(np.array(given, np.int64), notes)
        if (targets < 0).all():
            return (), np.full(len(rows), -1, np.int64), "classification"
        return classes, targets, "multilabel" if several(targets) else "classification"
    hint = read.titles[read.labels[0]]
    if any(re.search("[|;]", row.labels[0]) for row in rows):
        return _in_cells(table, [row.labels[0] for row in rows], notes)
    _doubt({row.labels[0] for row in rows} - {""}, table, len(rows), notes)
    classes = _sorted_labels({row.labels[0] for row in rows if row.labels[0]}, hint)
    index = {label: target for target, label in enumerate(classes)}
    targets = np.array([index.get(row.labels[0], -1) for row in rows], np.int64)
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
    return next((name for name in _ends(given) if name in files), None) or loosely.get(given.removeprefix("./"))


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
    labels = tuple(_known(cells[column].strip()) for column in read.labels)
    if any(labels) and not all(labels):
        empty = read.titles[read.labels[labels.index("")]]
        raise PocketError(f"{table} line {line} has no value for {empty!r}: give 0 or 1, or leave all its labels empty")
    split = "train" if read.split is None else SPLIT_NAMES.get(cells[read.split].strip().lower())
    if split is None:
        raise PocketError(f"{table} line {line} has the split {cells[read.split or 0]!r}: use train, val or test")
    return _Row(labels, split, "" if read.group is None else cells[read.group].strip(), line)


def _known(cell: str) -> str:
    return "" if cell == "None" or cell.casefold() in _UNKNOWN else cell


def _unknown_words(read: _Table) -> str:
    """Return the words that were read as no label, to be said; "" where there are none."""
    written = {cells[column].strip() for _, cells in read.rows for column in read.labels}
    words = ", ".join(sorted(cell for cell in written if cell and not _known(cell)))
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
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PocketError(f"{table} cannot be read as text ({error}): save it as CSV in UTF-8") from error
    first = text.split("\n", 1)[0]
    delimiter = Counter({mark: first.count(mark) for mark in ",;\t"}).most_common(1)[0][0]
    # Not split into lines here: a cell may hold any of the marks that Python takes as the end of one.
    before = csv.field_size_limit(_MOST_CELL)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
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
        found = _Table(rows, 0, [1], None, None, titles)
    else:
        found = _columns(table, rows[1:], titles, group)
    needed = max(found.name, *found.labels, found.split or 0, found.group or 0)
    if not found.rows:
        raise PocketError(f"{table} has headings ({', '.join(titles[:6])}) and no rows: add a row per image")
    for line, row in found.rows:
        if len(row) <= needed:
            raise PocketError(f"{table} line {line} has {len(row)} columns of {len(titles)}: complete or delete it")
    return found


def _columns(table: Path, rows: list[tuple[int, list[str]]], titles: list[str], group: str | None) -> _Table:
    heading = [title.lower() for title in titles]
    grouping = None
    if group is not None:
        if group.strip().lower() not in heading:
            raise PocketError(f"{table} has no column {group!r}: it has {', '.join(titles)}")
        grouping = heading.index(group.strip().lower())
        heading[grouping] = ""  # no name, label or split, whatever it is called

    def find(names: tuple[str, ...]) -> int | None:
        return next((heading.index(name) for name in names if name in heading), None)

    name, label, split = find(_NAME_COLUMNS), find(_LABEL_COLUMNS), find(_SPLIT_COLUMNS)
    if name is None:  # the one column whose cells are names of images
        name = _only(column for column in range(len(titles)) if _names_images(rows, column))
    if grouping is None:
        grouping = _patients(rows, heading, {name, label, split})
    labels = [label] if label is not None else []
    passed: list[str] = []
    if name is not None and label is None:
        for column in range(len(titles)):
            found = {cells[column].strip() for _, cells in rows if column < len(cells)} - {""}
            if column in (name, split, grouping) or not found & set(_PRESENT):
                continue
            others = sorted(found - set(_PRESENT))
            if not others:
                labels.append(column)
            elif all(cell in ("-1", "-1.0") or not _known(cell) for cell in others):
                passed.append(f"column {titles[column]!r} holds {others[0]} beside 0 and 1")
    if label is None and len(labels) < 2:  # Finding Labels, KL grade
        ends = (at for at, title in enumerate(heading) if re.split(r"[\W_]+", title)[-1] in _LABEL_COLUMNS)
        label = _only(column for column in ends if column not in (name, split, grouping))
        labels = labels if label is None else [label]  # one column of 0 and 1 alone: two classes
    if name is None or not labels:
        raise PocketError(
            f"{table} has the columns {', '.join(titles[:6])}: name the one with the files 'file' and the one "
            "with the labels 'label' (or give several columns of 0 and 1)"
        )
    return _Table(rows, name, labels, split, grouping, titles, tuple(passed))


def _only(columns: Iterable[int]) -> int | None:
    """Return the one column there is, None where there is another."""
    found = list(columns)
    return found[0] if len(found) == 1 else None


def _names_images(rows: list[tuple[int, list[str]]], column: int) -> bool:
    return all(column < len(row) and is_image(row[column].strip()) for _, row in rows)


def _patients(rows: list[tuple[int, list[str]]], heading: list[str], taken: set[int | None]) -> int | None:
    """Return the column of patients of whom some have several images, which would stand on two sides of a split."""
    for column, title in enumerate(heading):
        if column not in taken and re.sub("[^a-z]", "", title) in _PATIENT_COLUMNS:
            cells = [row[column].strip() for _, row in rows if column < len(row) and row[column].strip()]
            if 1 < len(set(cells)) < len(cells):
                return column
    return None


def _by_loose_name(files: dict[str, Path]) -> dict[str, str | None]:
    """Return each file by its name without folders or without its ending; None where several would fit."""
    loosely: dict[str, str | None] = {}
    for name in files:
        path = PurePosixPath(name)
        for short in {path.name, path.stem, str(path.with_suffix(""))}:
            loosely[short] = name if short not in loosely else None
    return loosely


def _sorted_labels(labels: set[str], hint: str) -> tuple[str, ...]:
    """Sort labels as numbers where all of them are, as grades where they are called so, else as text."""
    numbers = _numbers(labels)
    return (
        in_order(labels, hint) if numbers is None else tuple(sorted(labels, key=lambda label: (numbers[label], label)))
    )
