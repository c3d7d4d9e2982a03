"""Lanczos resizing of a batch with 5 lobes, over Pillow's LANCZOS (3 lobes) with its conversions.

    python benchmarks/lanczos.py [--json]

A uint8 batch [B,3,H,W] goes in and comes out on every side. Pillow takes one picture after another, on one core, as
it would in a loop; torch uses its threads. torch's own antialiased 3-lobe ``lanczos`` stands beside it where the
installed version has one (else its bicubic, which is cheaper).
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from _timing import alternate, print_table, run
from PIL import Image

from pocketvit.views import resize


def _pillow(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Resize with Pillow: to HWC, to an image, resized, back to a tensor."""
    pictures = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    resized = [
        np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS)) for picture in pictures
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _torch(pixels: torch.Tensor, size: int, mode: str) -> torch.Tensor:
    return F.interpolate(pixels, (size, size), mode=mode, antialias=True)


def _torch_mode() -> str:
    try:
        _torch(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 4, "lanczos")
        return "lanczos"
    except (NotImplementedError, ValueError, RuntimeError):
        return "bicubic"


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print both directions' rates and return the ratios to Pillow."""
    mode = _torch_mode()
    generator = torch.Generator().manual_seed(0)
    rows, result = [], {}
    for key, source, target, batch in (("up", 28, 224, 64), ("down", 512, 224, 16)):
        pixels = torch.randint(0, 256, (batch, 3, source, source), dtype=torch.uint8, generator=generator)
        medians = alternate(
            {
                "ours": partial(resize, pixels, (target, target)),
                "pillow": partial(_pillow, pixels, target),
                "torch": partial(_torch, pixels, target, mode),
            },
            arguments.seconds,
        )
        rates = {name: batch / seconds for name, seconds in medians.items()}
        result[f"lanczos5_over_pillow_{key}"] = rates["ours"] / rates["pillow"]
        rows.append(
            [
                f"{source} to {target} px",
                rates["ours"],
                rates["pillow"],
                rates["torch"],
                rates["ours"] / rates["pillow"],
            ]
        )
    print_table(
        [
            "resize",
            "pocketvit Lanczos-5 images/s",
            "Pillow LANCZOS images/s",
            f"torch {mode} images/s",
            "ratio to Pillow",
        ],
        rows,
    )
    return result


if __name__ == "__main__":
    run(measure, __doc__, seconds=12.0)
