"""What a network sees of an image: resizing, augmentation, and the random numbers of (seed, sample, view)."""

from .render import ViewBatch, Views
from .resize import resize, to_input
from .streaming import stream

__all__ = ["ViewBatch", "Views", "resize", "stream", "to_input"]
