"""Which columns of a table are what: found by their headings and by what stands in them, never guessed in doubt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import PocketError
from .folders import is_image

# Headings in lower case, without spaces and marks: Image Index, image_path, PatientID.
_NAMES = (
    *("file", "filename", "path", "filepath", "image", "imagename", "imageid", "imagepath", "imagefile"),
    *("imagefilename", "imageindex", "img", "imgname", "imgid", "imgpath", "imgfile"),
)
_PERHAPS_NAMES = ("name", "id")  # of a person, of a row
_LABELS = (
    *("label", "labels", "class", "target", "category", "diagnosis", "grade", "stage", "severity", "dx", "species"),
    *("labelname", "classname", "categoryname", "labelid", "classid", "categoryid"),
)
_SAYS_IT = ("label", "labels")  # whatever other columns say: it is what we ask for
_PERHAPS_LABELS = ("y",)  # or a coordinate
_RANKED = ("grade", "stage", "severity")  # whose numbers say more than their names
_SPLITS = ("split", "set", "subset", "partition")
_PATIENTS = {
    *("patient", "patientid", "patientno", "patientnr", "patientnumber", "patientname"),
    *("subject", "subjectid", "participant", "participantid"),
}
_PRESENT = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
# What spreadsheets and pandas write for it. "None" is Python's, "none" may be a grade.
_UNKNOWN = frozenset(("nan", "na", "n/a", "null", "<na>", "?"))

Rows = Sequence[tuple[int, list[str]]]


@dataclass(frozen=True)
class Columns:
    """Where the columns are."""

    name: int
    labels: list[int]
    split: int | None = None
    group: int | None = None
    passed: tuple[str, ...] = ()  # columns that nearly hold labels of 0 and 1, and why they do not


def known(cell: str) -> str:
    """Return a label as it is written; "" where that says that there is none."""
    return "" if cell == "None" or cell.casefold() in _UNKNOWN else cell


def present(cell: str) -> int | None:
    """Return 0 or 1 where a cell says whether something is there, else None."""
    return _PRESENT.get(cell.lower())


def is_usual(title: str) -> bool:
    """Whether a heading is one of those that always say labels."""
    return _plain(title) in (*_LABELS, *_PERHAPS_LABELS)


def find_columns(table: Path, rows: Rows, titles: list[str], group: str | None) -> Columns:
    """Find the columns of names, labels, split and groups.

    Args:
        table: For messages.
        rows: Line numbers and cells, without the headings.
        titles: The headings.
        group: The column that was asked for.

    Raises:
        PocketError: No such columns, or several that may be meant.
    """
    heading = [_plain(title) for title in titles]
    grouping = None if group is None else find_group(table, titles, group)
    if grouping is not None:
        heading[grouping] = ""  # no name, label or split, whatever it is called
    name = _name(rows, heading)
    split = next((heading.index(one) for one in _SPLITS if one in heading), None)
    label = _label(table, rows, titles, heading, {name, split})
    if grouping is None:
        grouping = _patients(rows, heading, {name, label, split})
    index = {at for at, title in enumerate(heading) if not title or title.startswith("unnamed")}  # as pandas writes it
    taken = {name, split, grouping, *index}
    labels, passed = [] if label is None else [label], list[str]()
    if name is not None and label is None:
        labels, passed = _of_0_and_1(rows, titles, taken)
    if label is None and len(labels) < 2:  # Finding Labels, KL grade
        ends = (at for at, title in enumerate(titles) if re.split(r"[\W_]+", title.lower())[-1] in _LABELS)
        label = _only(column for column in ends if column not in taken)
        labels = labels if label is None else [label]  # one column of 0 and 1 alone: two classes
    if name is not None and not labels:  # the one column there is beside the names
        rest = _only(at for at in range(len(titles)) if at not in taken)
        labels = [rest] if rest is not None and _repeats(rows, rest) >= 2 else []
    if name is None or not labels:
        wanted = "the one with the labels 'label' (or give several columns of 0 and 1)"
        if name is None:
            wanted = f"the one with the files 'file' and {wanted}"
        told = f"{table} has the columns {', '.join(titles[:6])}"
        found = "" if name is None else f", files in {titles[name]!r} and no labels for certain"
        raise PocketError(f"{told}{found}: name {wanted}")
    return Columns(name, labels, split, grouping, tuple(passed))


def find_group(table: Path, titles: list[str], group: str) -> int:
    """Return the column of groups.

    Raises:
        PocketError: There is none, or there are several.
    """
    like = called_like(titles, group)
    if not like:
        raise PocketError(f"{table} has no column {group!r}: it has {', '.join(titles)}")
    if len(like) > 1:
        both = ", ".join(titles[column] for column in like)
        raise PocketError(f"{table} has no column {group!r}, and several like it: give one of {both}")
    return like[0]


def called_like(titles: list[str], group: str) -> list[int]:
    """Return the columns with a heading, and where there are none those that are called much like it."""
    for form in (str.lower, _plain, _kind):
        like = [column for column, title in enumerate(titles) if form(title) == form(group.strip())]
        if like:
            return like[:1] if form is str.lower else like
    return []


def _plain(title: str) -> str:
    return re.sub(r"[\W_]+", "", title.lower())


def _kind(title: str) -> str:
    """Return what is counted: "patient" of Patient ID."""
    return re.sub(r"(id|no|nr|number|name)$", "", _plain(title)) or _plain(title)


def _name(rows: Rows, heading: list[str]) -> int | None:
    called = [heading.index(one) for one in (*_NAMES, *_PERHAPS_NAMES) if one in heading]
    images = [column for column in range(len(heading)) if _names_images(rows, column)]
    sure = next((column for column in called if column in images), None)
    if sure is None and called and heading[called[0]] in _NAMES:  # perhaps without endings
        sure = called[0]
    return next((column for column in (sure, _only(images), *called) if column is not None), None)


def _label(table: Path, rows: Rows, titles: list[str], heading: list[str], taken: set[int | None]) -> int | None:
    """Return the column of labels by its heading, of several that say the same the one with words.

    Raises:
        PocketError: Several say different things, and none is called label.
    """
    called = [at for one in _LABELS for at, title in enumerate(heading) if title == one and at not in taken]
    if not called:
        return next((heading.index(one) for one in _PERHAPS_LABELS if one in heading), None)
    first = called[0]
    same = [column for column in called if _one_to_one(rows, first, column)]
    sure = heading[first] in _SAYS_IT and heading.count(heading[first]) == 1
    if not sure and len(same) < len(called):
        both = " and ".join(repr(titles[column]) for column in called)
        raise PocketError(f"{table} has labels in {both}, which say different things: name the one you mean 'label'")
    words = (column for column in same if not all(map(_is_number, _cells(rows, column))))
    return first if heading[first] in _RANKED else next(words, first)


def _of_0_and_1(rows: Rows, titles: list[str], taken: set[int | None]) -> tuple[list[int], list[str]]:
    """Return the columns that hold only 0 and 1, and in words those that nearly do."""
    labels, passed = [], []
    for column in range(len(titles)):
        found = _cells(rows, column) - {""}
        others = sorted(cell for cell in found if present(cell) is None)
        if column in taken or len(others) == len(found):
            continue
        if not others:
            labels.append(column)
        elif all(cell in ("-1", "-1.0") or not known(cell) for cell in others):
            passed.append(f"column {titles[column]!r} holds {others[0]} beside 0 and 1")
    return labels, passed


def _patients(rows: Rows, heading: list[str], taken: set[int | None]) -> int | None:
    """Return the column of patients of whom some have several images, which would stand on two sides of a split."""
    patients = (at for at, title in enumerate(heading) if at not in taken and title in _PATIENTS)
    return next((column for column in patients if _repeats(rows, column) > 1), None)


def _only(columns: Iterable[int]) -> int | None:
    """Return the one column there is, None where there is another."""
    found = list(columns)
    return found[0] if len(found) == 1 else None


def _cells(rows: Rows, column: int) -> set[str]:
    return {cells[column].strip() for _, cells in rows if column < len(cells)}


def _names_images(rows: Rows, column: int) -> bool:
    return all(column < len(row) and is_image(row[column].strip()) for _, row in rows)


def _repeats(rows: Rows, column: int) -> float:
    """Return in how many rows each value of a column stands, as a mean; 0 where there are no two."""
    cells = [row[column].strip() for _, row in rows if column < len(row) and row[column].strip()]
    return len(cells) / len(set(cells)) if len(set(cells)) > 1 else 0.0


def _one_to_one(rows: Rows, one: int, other: int) -> bool:
    """Whether two columns say the same in other words."""
    pairs = {(row[one].strip(), row[other].strip()) for _, row in rows if max(one, other) < len(row)}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return False
    return True
