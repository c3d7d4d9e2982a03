"""What a label, a record, a loss, an answer and a score are, for each task: an object per task; nobody else asks.

`task_named` finds one by the name that a dataset, a store or a file carries. A new task is a subclass of `Task` and a
call of `register`.
"""

from .base import Answer, Task
from .classification import Classification, Ordinal
from .detection import Detection
from .multilabel import MultiLabel
from .registry import register, task_for, task_named

__all__ = [
    "Answer",
    "Classification",
    "Detection",
    "MultiLabel",
    "Ordinal",
    "Task",
    "register",
    "task_for",
    "task_named",
]
