"""OpenVINO: an .xml with its .bin, for processors, graphics and NPUs of Intel, and for ARM processors.

Files are read from ONNX by OpenVINO's own C++ reader: ``openvino.convert_model`` would do the same, and report its use
to a server. int8 comes from our calibrated scales (QDQ), which OpenVINO turns into its own integer kernels.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import PocketError
from ..export import first_line
from ..run import Run
from ..signature import KEY
from .base import Exported, Runtime, converting

WEIGHTS = f"{KEY}_bin"  # hex SHA-256 of the .bin, kept in the .xml


def write(exported: Exported, path: Path) -> None:
    """Write an IR: ``path`` and a .bin beside it. Weights stay as they are: nothing is cut to 16 bits."""
    import openvino

    with converting("OpenVINO"):
        model = openvino.Core().read_model(exported.onnx)
        model.set_rt_info(exported.signature.to_json(), [KEY])
        openvino.save_model(model, path, compress_to_fp16=False)
        model.set_rt_info(_digest(path), [WEIGHTS])  # known once the .bin is there
        openvino.save_model(model, path, compress_to_fp16=False)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()


def load(path: Path, threads: int) -> tuple[str, Run]:
    """See `Runtime.load`. In float32, as it was trained: left alone, OpenVINO takes bfloat16 where there is one."""
    import openvino

    if not path.with_suffix(".bin").is_file():
        raise PocketError(f"{path} has no weights beside it: copy {path.with_suffix('.bin').name} there, too.")
    try:
        core = openvino.Core()
        model = core.read_model(path)
        text = str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else ""
        damaged = model.has_rt_info([WEIGHTS]) and str(model.get_rt_info([WEIGHTS]).value) != _digest(path)
        exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled: Any = core.compile_model(model, "CPU", exact)
    except RuntimeError as error:
        raise PocketError(f"OpenVINO cannot open {path} and its .bin: {first_line(error)}") from error
    if damaged:
        raise PocketError(
            f"{path.with_suffix('.bin')} is damaged: its weights are not those of {path}. Copy both again."
        )

    def run(feed: np.ndarray) -> np.ndarray:
        return np.array(compiled(feed)[0])  # a copy: the next call writes into the same memory

    return text, run


OPENVINO = Runtime(
    "OpenVINO",
    ".xml",
    ("openvino",),
    "type `pip install 'pocketvit[openvino]'`",
    write,
    load,
    calibrates=True,
    example="example_openvino.py",
    beside=(".bin",),
)
