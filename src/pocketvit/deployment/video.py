"""Videos as pictures, one frame after the other, for whoever has OpenCV (``pip install 'pocketvit[video]'``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import PocketError

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}


def is_video(path: Path | str) -> bool:
    """Whether a path is named as a video."""
    return Path(path).suffix.lower() in SUFFIXES


def frames(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the frames of a video, upright: a name that ends in the frame's number, and uint8 [H, W, 3].

    Raises:
        PocketError: OpenCV is not installed, or the file is no video that it reads.
    """
    try:
        import cv2
    except ImportError as error:
        raise PocketError("it is a video, which OpenCV reads: pip install 'pocketvit[video]'.") from error
    video = cv2.VideoCapture(str(path))
    try:
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            yield f"{path}#{number:06}", np.ascontiguousarray(frame[..., ::-1])  # OpenCV has blue first
            number += 1
    finally:
        video.release()
    if not number:
        raise PocketError("it is no video that OpenCV reads. Play it, or convert it to H.264 in MP4.")
