"""A classifier that exists: what a file, a student and a live network have in common once they are opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..errors import PocketError
from ..sources.tiles import per_image
from ..tasks import Task
from ..views.preprocessing import Preprocessing

_BATCH = 64


class Model(ABC):
    """A network or an exported file, with all that it takes to feed it and to read its answers.

    Attributes:
        name: What to call it in messages.
        classes: Names of its outputs; () where nobody knows them.
        task: What its outputs answer.
        preprocessing: How a picture becomes what it takes.
    """

    name: str
    classes: tuple[str, ...]
    task: Task
    preprocessing: Preprocessing

    @abstractmethod
    def probabilities(self, views: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return float32 [B, C] of views uint8 [B, 3, V, V], V being the view size of `preprocessing`.

        Raises:
            PocketError: The views are of another size or type, or the answer is not finite.
        """

    def label(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Return the probabilities float32 [N, C] of 8-bit pictures uint8 [H, W, 3] of any sizes.

        Raises:
            PocketError: A picture cannot be taken by this model, or the answer is not finite.
        """
        sizes = [picture.shape[:2] for picture in pictures]
        return self.answer([self.prepare(picture) for picture in pictures], sizes)

    def prepare(self, picture: np.ndarray) -> torch.Tensor:
        """Return what is kept of a picture uint8 [H, W, 3] to answer it: its views, of tiles several.

        Raises:
            PocketError: It cannot be taken by this model.
        """
        return self.preprocessing.views([picture])

    def answer(self, prepared: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
        """Return the answers (as a rule probabilities float32 [N, C]) to N prepared pictures.

        Those of a picture's tiles are averaged; answers that lie in the view (boxes) are placed in the picture.

        Args:
            prepared: Of `prepare`.
            sizes: (height, width) of the pictures, where answers are to be placed.
        """
        if not prepared:
            return np.zeros((0, len(self.classes)), np.float32)
        answers = self.probabilities(torch.cat(list(prepared)))
        if len(answers) == len(prepared):
            return self._placed(answers, sizes)
        return per_image(answers, np.repeat(np.arange(len(prepared)), list(map(len, prepared)))).astype(np.float32)

    def _placed(self, answers: np.ndarray, sizes: Sequence[tuple[int, int]] | None) -> np.ndarray:
        if sizes is None:
            return answers
        return self.task.placed(answers, self.preprocessing.view, np.array(sizes, np.int64).reshape(-1, 2))

    def _checked(self, views: np.ndarray | torch.Tensor) -> torch.Tensor:
        given = views if isinstance(views, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(views))
        side = self.preprocessing.view_size
        if given.dtype != torch.uint8 or given.ndim != 4 or given.shape[1:] != (3, side, side):
            raise PocketError(
                f"{self.name} takes uint8 views [B, 3, {side}, {side}], not {given.dtype} {list(given.shape)}."
            )
        return given


class Network(Model):
    """A live network, on whatever device it is.

    It answers as ``module(x)`` in evaluation mode, which is what its exported file computes: several heads are combined
    as the network itself combines them.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        classes: Sequence[str],
        task: Task,
        preprocessing: Preprocessing,
        name: str | None = None,
    ) -> None:
        self.module, self.classes = module, tuple(classes)
        self.task, self.preprocessing = task, preprocessing
        self.name = name or type(module).__name__

    @torch.no_grad()
    def probabilities(self, views: np.ndarray | torch.Tensor) -> np.ndarray:
        given = self._checked(views)
        device = next((t.device for t in (*self.module.parameters(), *self.module.buffers())), given.device)
        training = self.module.training
        self.module.eval()
        try:
            parts = [
                self.task.probabilities(self.module(self.preprocessing.to_input(part.to(device))).float()).cpu()
                for part in given.split(_BATCH)
            ]
        finally:
            self.module.train(training)
        return finite(torch.cat(parts).numpy() if parts else np.zeros((0, len(self.classes)), np.float32), self.name)


def finite(answers: np.ndarray, name: str) -> np.ndarray:
    """Return answers as they are, if they are numbers.

    Raises:
        PocketError: One is NaN or infinite.
    """
    if not np.isfinite(answers).all():
        raise PocketError(
            f"{name} answers with numbers that are not finite (NaN or infinite): its weights are damaged, or its "
            "training went wrong. Copy the file again, or train it again."
        )
    return answers
