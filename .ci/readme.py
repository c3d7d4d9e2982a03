"""Run the README's commands word for word, in a new folder, each block after the one before.

Blocks of ``sh`` are run line by line and must exit with 0; blocks of ``python`` are run as one program. A block below a
comment ``<!-- not run: WHY -->`` is left out: it would install, or needs images that only a reader has. Where a block
needs ``photos/``, a small folder of drawn photographs stands in.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK = re.compile(r"(<!-- not run: .*? -->\n)?```(sh|python)\n(.*?)```", re.DOTALL)


def draw_photos(folder: Path) -> None:
    """Write photos/{disc,stripes,checks}/NN.jpg, 40 drawn pictures of 96 x 72 pixels a class."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:72, 0:96]
    for name in ("checks", "disc", "stripes"):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            cx, cy, period = rng.uniform(30, 66), rng.uniform(25, 47), rng.uniform(10, 18)
            shape = {
                "disc": (x - cx) ** 2 + (y - cy) ** 2 < (1.5 * period) ** 2,
                "stripes": (x + cx) // period % 2 == 0,
                "checks": ((x + cx) // period + (y + cy) // period) % 2 == 0,
            }[name]
            colours = rng.integers(0, 256, (2, 3))
            picture = np.where(shape[..., None], colours[0], colours[1]) + rng.normal(0, 12, (72, 96, 3))
            Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:02}.jpg")


def main(readme: Path, place: Path) -> None:
    """Run the blocks of ``readme`` in ``place``."""
    draw_photos(place / "photos")
    for skipped, language, body in BLOCK.findall(readme.read_text(encoding="utf-8")):
        if skipped:
            continue
        for command in body.strip().splitlines() if language == "sh" else [None]:
            start = time.monotonic()
            print(f"\n$ {command or 'python'}", flush=True)
            line = command if command else [sys.executable, "-c", body]
            subprocess.run(line, shell=command is not None, cwd=place, check=True)
            print(f"({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]).resolve(), Path(folder))
