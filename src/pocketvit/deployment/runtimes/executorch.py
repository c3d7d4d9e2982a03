"""ExecuTorch: a .pte with XNNPACK's kernels, for apps on Android, iOS and embedded Linux.

int8 needs no images: weights have a scale a row, inputs are rounded while the file runs, and only products with a
constant take part; static scales over a whole ViT cost more (cosines of 0.9 were seen).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import PocketError
from ..export import first_line
from ..run import Run
from ..signature import KEY
from .base import Exported, Runtime, converting


def write(exported: Exported, path: Path) -> None:
    """Write a program whose method "forward" is the network; "pocketvit" returns what it says of itself."""
    side = exported.signature.preprocessing.input_size
    example = (torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)),)
    with converting("ExecuTorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        network = exported.network
        if exported.signature.precision == "int8":
            network = _rounded(network, example)
        edge = to_edge_transform_and_lower(
            torch.export.export(network, example),
            partitioner=[XnnpackPartitioner()],
            constant_methods={KEY: exported.signature.to_json()},
        )
        path.write_bytes(edge.to_executorch().buffer)


def _rounded(network: nn.Module, example: tuple[torch.Tensor, ...]) -> nn.Module:
    """Return the network with int8 weights in its linear layers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    how = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
    # Convolutions whose inputs are rounded as they run are taken, and then refused when the file is run.
    quantizer = XNNPACKQuantizer().set_module_type(nn.Linear, how)
    prepared: Any = prepare_pt2e(torch.export.export(network, example).module(), quantizer)
    prepared(*example)
    return convert_pt2e(prepared)


def load(path: Path, threads: int) -> tuple[str, Run]:
    """See `Runtime.load`. The number of threads is that of the process: the last file that was opened decides."""
    try:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as Program

        if portable_lib._threadpool_get_thread_count() != threads:
            portable_lib._unsafe_reset_threadpool(threads)
        program = Program.get().load_program(path)
        text = str(program.load_method(KEY).execute([])[0]) if KEY in program.method_names else ""
        forward = program.load_method("forward")
    except (RuntimeError, ValueError) as error:
        raise PocketError(f"ExecuTorch cannot open {path}: {first_line(error)}") from error

    def run(feed: np.ndarray) -> np.ndarray:
        try:
            answer: np.ndarray = forward.execute([torch.from_numpy(np.ascontiguousarray(feed))])[0].numpy()
        except RuntimeError as error:
            raise PocketError(f"ExecuTorch opens {path} and cannot run it: {first_line(error)}") from error
        return answer

    return text, run


EXECUTORCH = Runtime(
    "ExecuTorch",
    ".pte",
    ("executorch",),
    "type `pip install 'pocketvit[executorch]'`",
    write,
    load,
    example="example_executorch.py",
)
