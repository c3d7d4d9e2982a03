"""Ordered grades: classes that are steps of one scale, such as "grade 0" to "grade 4"."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORDS = ("grade", "stage", "score", "severity", "level")
_GRADE = re.compile(rf"(?:({'|'.join(WORDS)})[ _-]?)?(\d+)", re.IGNORECASE)


def are_grades(labels: Iterable[str], hint: str = "") -> bool:
    """Whether labels are the steps of one scale: at least three consecutive whole numbers, called grades or the like.

    Args:
        hint: heading of the column that they stand in. Numbers alone mean nothing (the ten digits are no scale):
            either each label or this must hold one of `WORDS`.
    """
    parts = [_GRADE.fullmatch(label.strip()) for label in labels]
    if len(parts) < 3 or not all(parts):
        return False
    words = {(part[1] or "").lower() for part in parts if part}
    numbers = sorted(int(part[2]) for part in parts if part)
    called = any(word in hint.lower() for word in WORDS) if words == {""} else len(words) == 1
    return called and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def in_order(labels: Iterable[str], hint: str = "") -> tuple[str, ...]:
    """Sort labels: grades by their number ("grade 10" after "grade 9"), others as text."""
    found = sorted(labels)
    if are_grades(found, hint):
        found.sort(key=lambda label: int(re.sub(r"\D", "", label)))
    return tuple(found)
