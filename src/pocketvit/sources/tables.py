"""A CSV of file names and labels, for images in a folder."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np

from ..errors import PocketError
from .folders import SPLIT_NAMES, find_files, is_image, normalized
from .listing import Files, Listing

_NAME_COLUMNS = ("file", "filename", "file_name", "path", "filepath", "image", "image_name", "image_id", "name", "id")
_LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "diagnosis", "y")
_SPLIT_COLUMNS = ("split", "set", "subset", "partition")


def list_table(table: Path, folder: Path) -> Listing:
    """List the images that a CSV names, relative to ``folder``, with their labels and (if it has the column) split.

    Columns are found by their heading (file, image, ... and label, class, ...; split); without a heading the first is
    the file and the second the label. A name may lack its ending or its folders where that leaves no doubt. Rows
    without a label are unlabelled images.

    Raises:
        PocketError: no such columns, an image with two labels, or none of the files exists.
    """
    rows, columns = _read(table)
    files = {name: path for name, path in find_files(folder).items() if is_image(name)}
    loosely = _by_loose_name(files)
    found: dict[str, tuple[str, str, int]] = {}
    missing: list[tuple[str, str]] = []
    for line, row in rows:
        given = normalized(row[columns["name"]].strip().replace("\\", "/"))
        name = given if given in files else loosely.get(given.removeprefix("./"))
        if name is None:
            doubt = given in loosely
            why = "fits several files; give its folder" if doubt else f"is named in {table.name} but is not there"
            missing.append((given or f"line {line}", why))
            continue
        label = row[columns["label"]].strip()
        split = _split_of(row[columns["split"]], table, line) if "split" in columns else "train"
        if name in found and found[name][:2] != (label, split):
            raise PocketError(
                f"{table} gives {name} the label {found[name][0]!r} in line {found[name][2]} "
                f"and {label!r} in line {line}: keep one"
            )
        found[name] = (label, split, line)
    if not found:
        raise PocketError(
            f"none of the {len(missing)} files that {table} names is in {folder} ({missing[0][0]} for one): "
            "give the folder that the names start from"
        )
    notes = []
    if len(found) < len(files):
        notes.append(f"{len(files) - len(found):,} images in {folder.name} are not in {table.name} and were left out")
    unlabelled = sum(not label for label, _, _ in found.values())
    if unlabelled and unlabelled < len(found):
        notes.append(f"{unlabelled:,} images have no label in {table.name}: they train without one")
    names = sorted(found)
    classes = _sorted_labels({label for label, _, _ in found.values() if label})
    if len(classes) == 1:
        raise PocketError(f"{table} has one label only, {classes[0]!r}: two or more are needed")
    index = {label: target for target, label in enumerate(classes)}
    return Listing(
        name=folder.resolve().name or "images",
        classes=classes,
        names=names,
        keys=names,
        splits=[found[name][1] for name in names],
        targets=np.array([index.get(found[name][0], -1) for name in names], np.int64),
        images=Files([files[name] for name in names]),
        notes=notes,
        broken=missing,
    )


def _read(table: Path) -> tuple[list[tuple[int, list[str]]], dict[str, int]]:
    """Return (line number, row) of each row that is not empty, and where the columns are."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise PocketError(f"there is no {table}: give a CSV file of names and labels") from error
    except (OSError, UnicodeDecodeError) as error:
        raise PocketError(f"{table} cannot be read as text ({error}): save it as CSV in UTF-8") from error
    lines = text.splitlines()
    delimiter = Counter({mark: lines[0].count(mark) if lines else 0 for mark in ",;\t"}).most_common(1)[0][0]
    reader = csv.reader(lines, delimiter=delimiter)
    rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    if not rows or len(rows[0][1]) < 2:
        raise PocketError(f"{table} has no two columns: the first line should be like 'file,label'")
    heading = [cell.strip().lower() for cell in rows[0][1]]
    columns = {
        what: heading.index(next(name for name in names if name in heading))
        for what, names in (("name", _NAME_COLUMNS), ("label", _LABEL_COLUMNS), ("split", _SPLIT_COLUMNS))
        if any(name in heading for name in names)
    }
    if "name" in columns and "label" in columns:
        rows = rows[1:]
    elif is_image(heading[0]):
        columns = {"name": 0, "label": 1}
    else:
        raise PocketError(
            f"{table} has the columns {', '.join(rows[0][1][:6])}: name the one with the files 'file' and the one "
            "with the labels 'label'"
        )
    for line, row in rows:
        if len(row) <= max(columns.values()):
            raise PocketError(f"{table} line {line} has {len(row)} columns of {len(heading)}: complete or delete it")
    return rows, columns


def _split_of(cell: str, table: Path, line: int) -> str:
    split = SPLIT_NAMES.get(cell.strip().lower())
    if split is None:
        raise PocketError(f"{table} line {line} has the split {cell!r}: use train, val or test")
    return split


def _by_loose_name(files: dict[str, Path]) -> dict[str, str | None]:
    """Return each file by its name without folders or without its ending; None where several would fit."""
    loosely: dict[str, str | None] = {}
    for name in files:
        path = PurePosixPath(name)
        for short in {path.name, path.stem, str(path.with_suffix(""))}:
            loosely[short] = name if short not in loosely else None
    return loosely


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    """Sort labels as numbers where all of them are, else as text."""
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return tuple(sorted(labels))
