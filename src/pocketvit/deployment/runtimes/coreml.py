"""Core ML: an .mlpackage for iPhones, iPads and Macs, in 16-bit floats, which the Neural Engine computes in.

Core ML itself runs on Apple's systems only: elsewhere a file is written and not checked, and the command says so.
int8 has weights a scale a row, widened when a layer is computed: a smaller file, and no other arithmetic.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import PocketError
from ..export import first_line
from ..run import Run
from ..signature import KEY
from .base import Exported, Runtime, converting

_HERE = sys.platform == "darwin"


def write(exported: Exported, path: Path) -> None:
    """Write a folder, as Core ML's packages are; what it says of itself stands in its user-defined metadata."""
    side = exported.signature.preprocessing.input_size
    with converting("Core ML"):
        import coremltools

        program = torch.export.export(exported.network, (torch.zeros(1, 3, side, side),)).run_decompositions({})
        single: Any = {"dtype": np.float32}  # of input and output, for apps; 16 bits are those of the arithmetic
        model: Any = coremltools.convert(
            program,
            inputs=[coremltools.TensorType("pixels", (1, 3, side, side), **single)],
            outputs=[coremltools.TensorType(exported.signature.task.output, **single)],
            convert_to="mlprogram",
            minimum_deployment_target=coremltools.target.iOS16,
            skip_model_load=not _HERE,
        )
        if exported.signature.precision == "int8":
            from coremltools.optimize import coreml

            how = coreml.OptimizationConfig(coreml.OpLinearQuantizerConfig(mode="linear_symmetric"))
            model = coreml.linear_quantize_weights(model, how)
        model.user_defined_metadata[KEY] = exported.signature.to_json()
        model.save(str(path))


def load(path: Path, threads: int) -> tuple[str, Run]:
    """See `Runtime.load`; the system decides about threads."""
    import coremltools

    try:
        model: Any = coremltools.models.MLModel(str(path))
    except Exception as error:  # of coremltools, protobuf and the system
        raise PocketError(f"Core ML cannot open {path}: {first_line(error)}") from error

    def run(feed: np.ndarray) -> np.ndarray:
        return next(iter(model.predict({"pixels": feed}).values()))

    return model.user_defined_metadata.get(KEY, ""), run


COREML = Runtime(
    "Core ML",
    ".mlpackage",
    ("coremltools",),
    "type `pip install 'pocketvit[coreml]'`",
    write,
    load if _HERE else None,
    tolerance=0.05,  # 16-bit floats have three digits
    example="example_coreml.py",
    unchecked="not checked here, since Core ML runs on Apple's systems alone; run this on a Mac: `python example.py "
    "golden.png` must print the scores in golden.json",
)
