"""An image that cannot be used, and how much an image may claim to be."""

from __future__ import annotations

from ..errors import PocketError

MOST_PIXELS = 128_000_000  # of one image: its RGB takes 0.4 GB, and twice that while it is turned upright
MOST_BYTES = 1 << 30  # of one file


class BrokenImage(PocketError):
    """An image that cannot be used as it is: ``name`` says which, ``why`` says why and what to do."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name = name
        self.why = why

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.name, self.why)


def check_size(name: str, width: int, height: int) -> None:
    """Refuse an image by the size that its header claims, before memory is taken for it."""
    if width * height > MOST_PIXELS:
        raise BrokenImage(
            name,
            f"has {width:,}x{height:,} pixels, and {MOST_PIXELS // 10**6} million are the most; make it smaller, or "
            "cut it into parts",
        )
    if width * height <= 1:
        raise BrokenImage(name, f"has a single pixel ({width}x{height}); replace it or delete it")
