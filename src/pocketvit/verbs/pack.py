"""`pocketvit pack IMAGES`."""

from __future__ import annotations

from ..rundir import Outcome, speak


def pack(images: str, *, labels: str | None = None, window: str | None = None, out: str = "runs") -> Outcome:
    """Put images into memory-mapped packs, which `distill`, `train` and `label` find again (they do it by themselves).

    Args:
        images: "digits", a folder, a .npz or .csv file
        labels: CSV file of file names and labels of the images in a folder
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        out: the folder of runs; packs go into its shared/packs
    """
    from pathlib import Path

    from ..sources import open_images, pack_dataset
    from .options import parse_window
    from .stages import tell_dataset

    speak()
    dataset = open_images(images, labels=labels, window=parse_window(window))
    tell_dataset(dataset)
    packed = pack_dataset(dataset, Path(out) / "shared" / "packs")
    data = {
        split: {"images": len(source), "fingerprint": source.fingerprint} for split, source in packed.splits.items()
    }
    text = "\n".join(f"{split:5} {value['images']:>8,} images" for split, value in data.items())
    return Outcome(f"{text}\npacked into {Path(out) / 'shared' / 'packs'}", data)
