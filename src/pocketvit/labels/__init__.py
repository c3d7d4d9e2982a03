"""The soft-label store: what teachers said about every view of every image, written once and replayed to any student.

Plan (`plan_labels`), write (`write_labels`), read (`LabelStore.read`), verify (`verify`). Views and teachers are added
by labelling again into the same folder; stores of the same images and views are merged by copying their files.
"""

from .plan import LabelPlan, plan_labels
from .record import SoftLabels, decode, encode_topk
from .store import LabelStore
from .verify import Verification, verify
from .write import teacher_key, write_labels

__all__ = [
    "LabelPlan",
    "LabelStore",
    "SoftLabels",
    "Verification",
    "decode",
    "encode_topk",
    "plan_labels",
    "teacher_key",
    "verify",
    "write_labels",
]
