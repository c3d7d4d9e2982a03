"""Whose class is whose: a teacher's outputs and a dataset's classes, matched by name."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from timm.data import ImageNetInfo

from .teacher import Teacher

_SHOWN = 5  # classes that a note names


def normalize_name(name: str) -> str:
    """Return a class name without case, accents, punctuation and WordNet id: "n01440764-Tench_Fish" -> "tench fish"."""
    name = unicodedata.normalize("NFKD", name)
    name = "".join(letter for letter in name if not unicodedata.combining(letter)).casefold()
    name = re.sub(r"^n\d{8}[-_ ]+", "", name)
    return " ".join(re.findall(r"\w+", name.replace("_", " ")))


@functools.cache
def _wordnet() -> dict[str, str]:
    """ImageNet's WordNet ids, by which its folders are often called, and what they stand for."""
    info = ImageNetInfo("imagenet-22k")
    return {name: info.label_name_to_description(name) for name in info.label_names()}


def match_classes(teacher_classes: Sequence[str], dataset_classes: Sequence[str]) -> np.ndarray | None:
    """Find each of the dataset's classes among the teacher's, by normalized name or comma-separated synonym.

    Args:
        teacher_classes: in the order of its outputs; "tench, Tinca tinca" answers to both names.
        dataset_classes: in our order; a WordNet id alone ("n01440764") stands for its words.

    Returns:
        int64 [dataset classes] positions in ``teacher_classes``; None unless every class has exactly one and no two
        the same. The teacher's own list is in its order, whatever stands in it twice (ImageNet has two cranes).
    """
    if len(teacher_classes) > 0 and tuple(teacher_classes) == tuple(dataset_classes):
        return np.arange(len(teacher_classes))
    whole: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for index, name in enumerate(teacher_classes):
        whole.setdefault(normalize_name(name), set()).add(index)
        for part in name.split(","):
            parts.setdefault(normalize_name(part), set()).add(index)
    columns: list[int] = []
    for name in dataset_classes:
        key = normalize_name(_wordnet().get(name, name) if re.fullmatch(r"n\d{8}", name) else name)
        found = whole.get(key) or parts.get(key) or set()
        if len(found) != 1 or not key:
            return None
        columns += found
    return np.array(columns, np.int64) if columns and len(set(columns)) == len(columns) else None


def align_some(teacher: Teacher, dataset_classes: Sequence[str]) -> Teacher | None:
    """Return a teacher with a class map onto those of a dataset's classes that it knows; None if it knows none.

    The others have the column -1, and are named in the notes.
    """
    found = [match_classes(teacher.classes or (), [name]) for name in dataset_classes]
    columns = np.array([-1 if one is None else one[0] for one in found], np.int64)
    known = columns[columns >= 0]
    if not len(known) or len(set(known)) < len(known):
        return None
    pairs = zip(dataset_classes, columns.tolist(), strict=True)
    shown = ", ".join(f"{name} = its {teacher.classes[at]}" for name, at in pairs if at >= 0)  # type: ignore[index]
    missing = ", ".join(name for name, at in zip(dataset_classes, columns, strict=True) if at < 0)
    return teacher.with_columns(
        columns,
        f"{teacher.name}: {len(known)} of the images' {len(columns)} classes matched by name ({shown}).",
        f"{teacher.name}: it does not know {missing}: the student learns that from the true boxes alone.",
    )


def without_background(teacher: Teacher) -> Teacher:
    """Return a detector without the outputs that are no class: torchvision's background, and COCO's unused numbers.

    Those in two stages, and SSDs, never answer 0. Of the others 0 may be a class, and is one unless its name says no.
    """
    if not getattr(teacher, "background", False) or teacher.columns is not None:
        return teacher
    never = any(type(module).__name__ in ("RoIHeads", "SSDHead") for module in teacher.module.modules())
    names = teacher.classes or ("__background__" if never else "", *("",) * (teacher.num_outputs - 1))
    kept = [at for at, name in enumerate(names) if name not in ("__background__", "N/A")]
    if len(kept) == len(names):
        return teacher
    return teacher.with_columns(np.array(kept), f"{teacher.name}: {len(names) - len(kept)} of its outputs, the "
                                                "background among them, are no class.")  # fmt: skip


def align(teacher: Teacher, dataset_classes: Sequence[str], numbers: Mapping[str, int] | None = None) -> Teacher | None:
    """Return the teacher with the class map onto a dataset's classes, or None if it has to be fine-tuned for them.

    A teacher whose class names are unknown is taken at its word when their number is right; its notes say so.

    Args:
        teacher: Whose outputs are to be ours.
        dataset_classes: In our order.
        numbers: Of these classes in the annotations that the teacher may have learned from (`Dataset.numbers`).
    """
    if not teacher.num_outputs:
        return None
    if teacher.classes is None:
        if teacher.columns is not None:  # somebody has said which output is whose
            return teacher if teacher.num_outputs == len(dataset_classes) else None
        return _by_number(teacher, dataset_classes, numbers or {})
    columns = match_classes(teacher.classes, dataset_classes)
    if columns is None:
        return None
    if len(columns) == teacher.raw_outputs and (columns == np.arange(len(columns))).all():
        return teacher.with_columns(None)
    return teacher.with_columns(
        columns, f"{teacher.name}: {len(columns)} of its {teacher.raw_outputs} classes matched by name."
    )


def _by_number(teacher: Teacher, dataset_classes: Sequence[str], numbers: Mapping[str, int]) -> Teacher | None:
    """Return a teacher without names of its classes, taken in the order that the annotations number them; else ours.

    Detectors that were trained on annotations have their order, perhaps after a background, or their very numbers.
    """
    numbered = bool(numbers) and all(name in numbers for name in dataset_classes)
    order = sorted(dataset_classes, key=lambda name: numbers[name]) if numbered else list(dataset_classes)
    first = teacher.num_outputs - len(order)
    if first == 0 or (first == 1 and getattr(teacher, "background", False)):
        outputs = {name: number for number, name in enumerate(order, first)}
    elif numbered and teacher.num_outputs == max(numbers.values()) + 1:
        outputs = {name: numbers[name] for name in order}
    else:
        return None
    columns = np.array([outputs[name] for name in dataset_classes])
    same = len(columns) == teacher.num_outputs and bool((columns == np.arange(len(columns))).all())
    whose = "those of the annotations" if numbered else "the images' classes"
    shown = ", ".join(name if same else f"{outputs[name]} {name}" for name in order[:_SHOWN])
    more = ", ..." if len(order) > _SHOWN else ""
    return teacher.with_columns(
        None if same else columns,
        f"{teacher.name}: its classes have no names; assumed to be {whose} in order ({shown}{more}).",
    )
