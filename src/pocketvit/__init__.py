"""Turn big vision models into small vision transformers: the verbs, and nothing else.

    import pocketvit
    run = pocketvit.distill("photos/", teacher="hf-hub:timm/convnext_tiny.in12k_ft_in1k")
    run.table, run.predict("photo.jpg"), run.report

Each verb is imported when it is first used, so that ``import pocketvit`` does not wait for PyTorch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from .errors import PocketError
from .settings import VERBS

if TYPE_CHECKING:
    from .rundir import Run
    from .verbs.bench import bench
    from .verbs.compare import compare
    from .verbs.compress import compress
    from .verbs.demo import demo
    from .verbs.distill import distill
    from .verbs.export import export
    from .verbs.label import label
    from .verbs.pack import pack
    from .verbs.predict import predict
    from .verbs.report import report
    from .verbs.run import run
    from .verbs.serve import serve
    from .verbs.synthesize import synthesize
    from .verbs.train import train

# Linux: large tensors in huge pages. A batch of photographs makes activations of hundreds of MB anew in every layer,
# and without this half of the time is the kernel's, giving out pages. PyTorch reads it at its first large tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
__all__ = [
    "PocketError",
    "Run",
    "bench",
    "compare",
    "compress",
    "demo",
    "distill",
    "export",
    "label",
    "pack",
    "predict",
    "report",
    "run",
    "serve",
    "synthesize",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in VERBS:
        return getattr(importlib.import_module(f".verbs.{name}", __name__), name)
    if name == "Run":
        return importlib.import_module(".rundir", __name__).Run
    raise AttributeError(f"module 'pocketvit' has no attribute {name!r}")
