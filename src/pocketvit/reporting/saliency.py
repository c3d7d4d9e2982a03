"""Where a network looks: attention rollout of a vision transformer, and the gradient of its answer over the image.

Neither says *why* an answer is right. Rollout mixes what every head looks at, whatever the answer (Abnar & Zuidema
2020, "Quantifying Attention Flow in Transformers", arXiv 2005.00928). Gradients say what would change the answer
(Simonyan et al. 2014, arXiv 1312.6034), here averaged over slightly noisy copies, which makes them legible (Smilkov et
al. 2017, "SmoothGrad", arXiv 1706.03825).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config import ViewConfig
from ..models import forward_heads
from ..sources.base import Source
from ..sources.subset import Subset
from ..tasks import Task
from ..training.predict import plain_pixels
from ..training.step import Input
from ..views.resize import to_input

SHOWN = 8  # images, half of them answered wrong
_COPIES = 16  # noisy ones of an image
_NOISE = 0.1  # of the range of its values


def heat_maps(
    model: nn.Module,
    source: Source | None,
    view: ViewConfig,
    input: Input,
    probabilities: np.ndarray | None,
    task: Task,
) -> dict[str, np.ndarray]:
    """Return maps of a few scored images, for ``samples.npz``; nothing without images, or where a network has none.

    Args:
        model: The student.
        source: The scored split.
        view: Its geometry is used.
        input: What the student is fed.
        probabilities: floating [N, C], the student's answers on the split.
        task: What they answer.

    Returns:
        ``heat_images`` uint8 [k, S, S, 3], ``heat_names`` [k], ``heat_targets`` int64 [k] (-1 where unknown, or where
        an image may have several answers), ``heat_answers`` int64 [k] (the likeliest class),
        ``heat_gradient`` float16 [k, S', S'] and, of a plain vision transformer, ``heat_rollout`` float16 [k, h, w] on
        its grid of patches; each map from 0 to 1.
    """
    if source is None or probabilities is None or not len(source) or not task.explains:
        return {}
    chosen = choose_images(probabilities, source.targets, task)
    pixels = plain_pixels(Subset(source, chosen), view)
    size, mean, std = input
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    x_BCHW = to_input(pixels.to(device), size, mean, std)
    answers = torch.from_numpy(probabilities[chosen].argmax(1)).to(device)
    was_training = model.training
    model.eval()
    try:
        arrays = {
            "heat_images": pixels.permute(0, 2, 3, 1).numpy(),
            "heat_names": np.array([str(source.names[i]) for i in chosen]),
            "heat_targets": np.asarray(source.targets)[chosen] if task.exclusive else np.full(len(chosen), -1),
            "heat_answers": answers.cpu().numpy(),
            "heat_gradient": _from_zero_to_one(gradient_map(model, x_BCHW, answers, exclusive=task.exclusive)),
        }
        rollout = attention_rollout(model, x_BCHW)
    finally:
        model.train(was_training)
    if rollout is not None:
        arrays["heat_rollout"] = _from_zero_to_one(rollout)
    return arrays


def choose_images(probabilities: np.ndarray, targets: Any, task: Task) -> np.ndarray:
    """Return int64 positions of the most confident mistakes, and of right answers of as many classes as there are.

    `SHOWN` in all, half each where there are enough; without labels, or where an answer is not one class, images at
    equal distances.
    """
    y_N = np.asarray(targets)
    known = np.flatnonzero(y_N >= 0) if task.exclusive else np.zeros(0, np.int64)
    if not len(known):
        return np.unique(np.linspace(0, len(probabilities) - 1, min(SHOWN, len(probabilities))).astype(np.int64))
    answer_N, confidence_N = probabilities.argmax(1), probabilities.max(1)
    wrong = known[answer_N[known] != y_N[known]]
    right = known[answer_N[known] == y_N[known]]
    wrong = wrong[np.argsort(-confidence_N[wrong], kind="stable")]
    turn = np.zeros(len(y_N), np.int64)  # the classes take turns, each in the order of the split
    for label in np.unique(y_N[right]):
        members = right[y_N[right] == label]
        turn[members] = np.arange(len(members))
    right = right[np.argsort(turn[right], kind="stable")]
    few = min(len(wrong), max(SHOWN // 2, SHOWN - len(right)))
    return np.concatenate([wrong[:few], right[: SHOWN - few]])


def gradient_map(model: nn.Module, x_BCHW: Tensor, classes_B: Tensor, *, exclusive: bool = True) -> Tensor:
    """Return how strongly each pixel moves the log odds of a class: |d log odds / d x|, the largest of the channels.

    Args:
        model: In evaluation mode, on the images' device.
        x_BCHW: Normalized.
        classes_B: int64, whose odds; several heads' are added.
        exclusive: Whether a class's odds are against the other classes, else against its own absence.

    Returns:
        float32 [B, H, W], the mean over noisy copies that are the same at every call.
    """
    noise = torch.Generator().manual_seed(0)
    spread = _NOISE * (x_BCHW.amax((1, 2, 3), keepdim=True) - x_BCHW.amin((1, 2, 3), keepdim=True))
    total = torch.zeros_like(x_BCHW[:, 0])
    with torch.enable_grad():
        for _ in range(_COPIES):
            shift = torch.randn(x_BCHW.shape, generator=noise).to(x_BCHW.device) * spread
            x = (x_BCHW + shift).requires_grad_()
            odds = torch.stack([_log_odds(head, classes_B, exclusive) for head in forward_heads(model, x)]).sum()
            (gradient,) = torch.autograd.grad(odds, x)
            total += gradient.abs().amax(1)
    return total / _COPIES


def attention_rollout(model: nn.Module, x_BCHW: Tensor) -> Tensor | None:
    """Return how much of each patch flows into what the heads read, float32 [B, h, w]; None for no plain transformer.

    ``A_L ... A_1`` with ``A = (mean over heads of the attention + I) / 2`` (Abnar & Zuidema 2020); the rows of the
    class and distillation tokens, or of all patches where there is none, are averaged. Several sets of tokens on one
    grid are added up.
    """
    blocks, grid = getattr(model, "blocks", None), getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if blocks is None or grid is None:
        return None
    with torch.no_grad(), _SeenAttention() as seen:
        forward_heads(model, x_BCHW)
    prefix, places = int(getattr(model, "num_prefix_tokens", 0)), grid[0] * grid[1]
    tokens = {attention.shape[1:] for attention in seen.attentions}
    if len(seen.attentions) != len(blocks) or len(tokens) != 1:
        return None
    count = seen.attentions[0].shape[1]
    if count <= prefix or (count - prefix) % places:
        return None
    flow = torch.eye(count, device=x_BCHW.device).expand(len(x_BCHW), -1, -1)
    for attention in seen.attentions:
        flow = 0.5 * (attention + torch.eye(count, device=x_BCHW.device)) @ flow
    read = flow[:, :prefix] if prefix else flow
    return read[:, :, prefix:].mean(1).unflatten(1, (-1, *grid)).sum(1)


class _SeenAttention(TorchFunctionMode):
    """Records the attention of every ``scaled_dot_product_attention`` while it is entered, the heads averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.attentions: list[Tensor] = []  # each [B, N, N]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.attentions.append(_weights(*args, **kwargs))
        return func(*args, **kwargs)


def _weights(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None, **_: Any
) -> Tensor:
    scores = query.float() @ key.float().transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1).mean(1)


def _log_odds(logits_BC: Tensor, classes_B: Tensor, exclusive: bool) -> Tensor:
    """Sum over the images of the log odds of their class; its gradient does not vanish where a network is sure."""
    own = logits_BC.gather(1, classes_B[:, None])[:, 0]
    if not exclusive or logits_BC.shape[1] == 1:
        return own.sum()
    return (own - logits_BC.scatter(1, classes_B[:, None], -torch.inf).logsumexp(1)).sum()


def _from_zero_to_one(map_BHW: Tensor) -> np.ndarray:
    low, high = map_BHW.amin((1, 2), keepdim=True), map_BHW.amax((1, 2), keepdim=True)
    return ((map_BHW - low) / (high - low).clamp_min(1e-12)).cpu().numpy().astype(np.float16)
