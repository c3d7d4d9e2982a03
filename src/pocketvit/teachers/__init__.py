"""Teachers: loading them from anywhere, their own preprocessing, and how their classes map onto ours."""

from .classes import align, align_some, match_classes
from .detectors import DetectorTeacher, detector_teacher
from .finetune import new_head
from .loading import load_teacher
from .teacher import Teacher

__all__ = [
    "DetectorTeacher",
    "Teacher",
    "align",
    "align_some",
    "detector_teacher",
    "load_teacher",
    "match_classes",
    "new_head",
]
