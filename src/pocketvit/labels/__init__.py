"""The soft-label store: what teachers said about every view of every image, written once and replayed to any student.

Plan (`plan_labels`), write (`write_labels`), read (`LabelStore.read`), verify (`verify`). Views and teachers are added
by labelling again into the same folder; stores of the same images and views are merged by copying their files. What is
kept of an image is a `Record`: a kind of one's own is one class, anywhere.
"""

from .detections import Boxes, BoxLabels
from .layers import Layer, LayerLabels
from .plan import LabelPlan, plan_labels
from .ragged import RaggedLabels
from .record import Field, Record, record_of, register_record
from .soft import FullLabels, SoftLabels, TopLabels, decode, encode_topk
from .store import LabelStore
from .verify import Verification, verify
from .write import is_complete, teacher_key, write_labels

__all__ = [
    "BoxLabels",
    "Boxes",
    "Field",
    "FullLabels",
    "LabelPlan",
    "LabelStore",
    "Layer",
    "LayerLabels",
    "RaggedLabels",
    "Record",
    "SoftLabels",
    "TopLabels",
    "Verification",
    "decode",
    "encode_topk",
    "is_complete",
    "plan_labels",
    "record_of",
    "register_record",
    "teacher_key",
    "verify",
    "write_labels",
]
