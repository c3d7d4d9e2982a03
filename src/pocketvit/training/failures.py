"""What an exception from inside torch means for whoever started the training, where that is known."""

from __future__ import annotations

import torch

from ..config import TrainConfig
from ..errors import PocketError
from .batches import Batches
from .distributed import LOST, is_lost


def explained(error: Exception, config: TrainConfig, batches: Batches) -> PocketError | None:
    """Return what to say, and to do, of an exception that a training step raised; None where that is not known."""
    size = config.batch_size
    if batches.world > 1 and is_lost(error):
        return PocketError(LOST)
    if "more than 1 value per channel" in str(error) or "more than 1 spatial element" in str(error):
        return PocketError(
            f"a normalization has a single value a channel to look at, in a batch of {size} of such small pictures."
            " Use --replace-norm group, which needs neither other images nor other positions, or a larger size."
        )
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return PocketError(
            f"a batch of {size} images does not fit into the memory of {batches.device}. Use --batch-size "
            f"{max(1, size // 2)} --accumulate {2 * config.accumulate}, which trains alike, or a smaller size."
        )
    if config.compile and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        reason = str(error).strip().splitlines()[0]
        return PocketError(f"torch.compile does not work here ({reason}). Train without --compile.")
    return None
