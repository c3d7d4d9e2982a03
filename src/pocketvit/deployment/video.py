"""Videos as pictures, one frame after the other, for whoever has OpenCV (``pip install 'pocketvit[video]'``)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import PocketError

log = logging.getLogger("pocketvit")

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"}


def is_video(path: Path | str) -> bool:
    """Whether a path is named as a video."""
    return Path(path).suffix.lower() in SUFFIXES


def frames(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the frames of a video, upright: a name that ends in the frame's number, and uint8 [H, W, 3].

    A video that ends before the number of frames that it states (cut off while it was copied) is read as far as it
    goes, with a warning.

    Raises:
        PocketError: OpenCV is not installed, or the file is no video that it reads.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is said here, in one message
    try:
        import cv2
    except ImportError as error:
        raise PocketError("it is a video, which OpenCV reads: pip install 'pocketvit[video]'.") from error
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    video = cv2.VideoCapture(str(path))
    try:
        number, stated = 0, round(video.get(cv2.CAP_PROP_FRAME_COUNT))
        while True:
            there, frame = video.read()
            if not there:
                break
            yield f"{path}#{number:06}", np.ascontiguousarray(frame[..., ::-1])  # OpenCV has blue first
            number += 1
    finally:
        video.release()
    if 0 < number < stated - max(2, stated // 50):  # containers are wrong by a frame or two
        log.warning("warning  %s ends after %d of the %d frames that it states", path, number, stated)
    if not number:
        raise PocketError("it is no video that OpenCV reads. Play it, or convert it to H.264 in MP4.")
