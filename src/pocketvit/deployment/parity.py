"""Is the exported file the same function as the PyTorch model?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..errors import PocketError
from ..views.preprocessing import plain_views
from .opening import open_file

_RELATIVE = 1e-5
_SPARED = 16  # one image in so many may differ where a network chooses


@dataclass(frozen=True)
class Parity:
    """How far an exported file is from the model it was made from, on real pixels."""

    max_abs: float  # largest difference of an output (logits; probabilities where preprocessing is inside), see below
    cosine: float  # smallest cosine over images between the two output vectors
    agreement: float  # share of ``counted`` that is answered alike
    counted: str  # "64 images", "the labels of 64 images"

    def text(self) -> str:
        """Return one line for a person."""
        return (
            f"largest difference {self.max_abs:.2g}, smallest cosine {self.cosine:.6f}, "
            f"same answer on {self.agreement:.1%} of {self.counted}"
        )


@torch.no_grad()
def check_parity(
    model: nn.Module, file: Path | str, pixels: np.ndarray | torch.Tensor, tolerance: float = 1e-3
) -> Parity:
    """Compare a file under its runtime with its PyTorch model, image by image.

    A network that ``chooses`` among candidates (the places that a set detector's queries begin with) chooses otherwise
    where two are alike but for rounding: of its images the sixteenth part that differs most is left out.

    The PyTorch side does its own preprocessing with `pocketvit.views`, so that a file with preprocessing inside is
    checked against the code that training used and not against itself.

    Args:
        model: the network; it is put into eval mode for the call.
        file: the fp32 or int8 file.
        pixels: uint8 views [B, 3, S, S], or pictures [B, H, W, 3] for a file with preprocessing inside.
        tolerance: largest difference of an fp32 output that is let pass. int8 is only reported.

    Raises:
        PocketError: an fp32 file differs by more than ``tolerance`` (or 1e-5 of the largest output, if that is more).
    """
    exported = open_file(file)
    signature = exported.signature
    about, task = signature.preprocessing, signature.task
    array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    training = model.training
    model.eval()
    try:
        parts = []
        for start in range(0, len(array), 64):
            part = np.ascontiguousarray(array[start : start + 64])
            views = plain_views(list(part), about.view) if signature.source_size else torch.from_numpy(part)
            parts.append(model(about.to_input(views).to(device)).float().cpu())
    finally:
        model.train(training)
    logits = torch.cat(parts)
    inside = signature.source_size is not None
    answers = task.probabilities(logits).numpy()
    found = exported.outputs(array)
    expected = task.graph(logits).numpy() if inside else logits.numpy()
    given = task.from_graph(found) if inside else task.probabilities(torch.from_numpy(found)).numpy()
    expected, found = (values.reshape(len(values), -1).astype(np.float64) for values in (expected, found))
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (expected * found).sum(1) / np.maximum(norms, 1e-30)
    spared = -(-len(array) // _SPARED) if getattr(model, "chooses", False) and len(array) > 1 else 0
    differences = np.sort(np.abs(expected - found).max(1))[: len(array) - spared]
    parity = Parity(
        max_abs=float(differences.max()),
        cosine=float(np.sort(cosine)[spared:].min()),
        agreement=task.agreement(answers, given),
        counted=task.counted(f"{len(array):,} image{'' if len(array) == 1 else 's'}"),
    )
    # float32 has seven digits: outputs of a thousand (an untrained deep network) cannot agree to 1e-3.
    allowed = max(tolerance, _RELATIVE * float(np.abs(expected).max()))
    if signature.precision == "fp32" and not parity.max_abs <= allowed:
        raise PocketError(
            f"{file} does not compute what the PyTorch model computes: {parity.text()} "
            f"(at most {allowed:.2g} is let pass). Do not ship this file; the network holds an operation that the "
            "exporter or the runtime gets wrong."
        )
    return parity
