"""Pictures in memory as what views render from."""

from __future__ import annotations

import numpy as np


class PictureArray:
    """What `Views` needs of a source, for uint8 [N, 3, S, S] and ids [N] that key their augmentation."""

    def __init__(self, images: np.ndarray, ids: np.ndarray) -> None:
        self.images, self.ids = images.transpose(0, 2, 3, 1), np.asarray(ids, np.uint64)

    def rgb(self, positions: np.ndarray) -> np.ndarray:
        return self.images[positions]
