"""The tasks by name."""

from __future__ import annotations

from ..errors import PocketError
from .base import Task

_TASKS: dict[str, Task] = {}


def register(task: type[Task]) -> type[Task]:
    """Make a task known by its name (a decorator)."""
    _TASKS[task.name] = task()
    return task


def task_for(kind: str) -> Task:
    """Return the usual task of a teacher's kind of outputs."""
    return next(task for task in _TASKS.values() if task.kind == kind)


def task_named(name: str) -> Task:
    """Return the task of a name.

    Raises:
        PocketError: There is none.
    """
    known = {"multi-label": "multilabel"}.get(name, name)  # as versions before 0.2 wrote it
    if known not in _TASKS:
        raise PocketError(f"there is no task {name!r}; there are {', '.join(_TASKS)}.")
    return _TASKS[known]
