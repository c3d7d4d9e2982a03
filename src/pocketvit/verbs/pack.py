"""`pocketvit pack IMAGES`."""

from __future__ import annotations

from pathlib import Path

from ..rundir import Outcome
from ..settings import Pack, verb


@verb(Pack)
def pack(settings: Pack) -> Outcome:
    """Put images into memory-mapped packs, which the other verbs find again (and make by themselves)."""
    from ..road.images import open_dataset, tell_dataset
    from ..sources import pack_dataset

    dataset = open_dataset(settings)
    tell_dataset(dataset)
    folder = Path(settings.out) / "shared" / "packs"
    packed = pack_dataset(dataset, folder)
    data = {
        split: {"images": len(source), "fingerprint": source.fingerprint} for split, source in packed.splits.items()
    }
    text = "\n".join(f"{split:5} {value['images']:>8,} images" for split, value in data.items())
    return Outcome(f"{text}\npacked into {folder}", data)
