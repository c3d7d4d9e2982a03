"""Muon: momentum whose update of a matrix is made orthogonal, and AdamW for everything that is no matrix.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the scale and the decoupled decay of Liu et al.
2025 (arXiv 2502.16982): for a matrix W [n, m] with gradient G,

    M <- mu M + (1 - mu) G                       momentum
    U  = orthogonalized((1 - mu) G + mu M)       Nesterov; U U^T is about the identity
    W <- W - lr decay W - lr 0.2 sqrt(max(n, m)) U

so that an update's root mean square is about AdamW's, and learning rates mean the same for both. Convolutions are
matrices [out, in * height * width]; queries, keys and values are a matrix each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

# Jordan's quintic: 5 steps bring singular values of 1 to 1e-3 of the norm into about 0.7 to 1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say ``muon=True``, AdamW for the others.

    Args:
        groups: Parameter groups. One with ``muon=True`` may say ``parts``: into how many matrices, one below the other,
            each of its parameters is cut (3 for ``qkv``, the groups of a convolution); the default is 1 each.
        lr: Learning rate, of groups that name none.
        weight_decay: Decoupled, of groups that name none.
        momentum: mu, of matrices.
        betas: Of AdamW.
        eps: Of AdamW.
        dtype: Of the products that make a matrix orthogonal: bfloat16 where a device has units for it, else float32.

    Raises:
        TypeError: Parameters in place of groups: which of them are matrices to be made orthogonal, nobody would know.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 5e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        defaults = {"muon": False, "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas}
        # torch reads `fused` when it restores a state: a fused AdamW counts its steps on the device.
        groups = list(groups)
        if not all(isinstance(group, dict) for group in groups):
            raise TypeError(
                "Muon takes parameter groups, such as [{'params': matrices, 'muon': True}, {'params': vectors}]: "
                "pocketvit.training.build_optimizer makes them of a model."
            )
        super().__init__(groups, {**defaults, "eps": eps, "parts": None, "fused": True})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient; those of equal shape are orthogonalized together."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices = _ByShape()
        for group in self.param_groups:
            if group["muon"]:
                self._add_matrices(group, matrices)
            else:
                self._adamw(group)
        matrices.update(self.dtype)
        return loss

    def _add_matrices(self, group: dict[str, Any], matrices: _ByShape) -> None:
        given = [(p, parts) for p, parts in zip(group["params"], _parts(group), strict=True) if p.grad is not None]
        if not given:
            return
        weights = [p for p, _ in given]
        for p in weights:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in weights]
        gradients = [p.grad for p in weights]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for (p, parts), update in zip(given, updates, strict=True):
            matrices.add(p, update, parts, group["lr"])

    def _adamw(self, group: dict[str, Any]) -> None:
        weights = [p for p in group["params"] if p.grad is not None]
        for p in weights:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in weights]
        adamw(
            weights,
            [p.grad for p in weights],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _parts(group: dict[str, Any]) -> list[int]:
    return group["parts"] or [1] * len(group["params"])


class _ByShape:
    """The matrices of a step, batched by shape: small products cost more to start than to take."""

    def __init__(self) -> None:
        # (rows, columns) -> (destination [P, n, m], update [P, n, m] laid down so that rows <= columns, step length)
        self.kinds: dict[tuple[int, int], list[tuple[Tensor, Tensor, float]]] = defaultdict(list)

    def add(self, weight: Tensor, update: Tensor, parts: int, rate: float) -> None:
        rows, columns = weight.shape[0] // parts, weight[0].numel()
        matrices = update.reshape(parts, rows, columns)
        laid = matrices.mT if rows > columns else matrices
        length = -rate * 0.2 * max(rows, columns) ** 0.5
        self.kinds[tuple(laid.shape[1:])].append((weight, laid, length))  # type: ignore[index]

    def update(self, dtype: torch.dtype) -> None:
        for (short, _), entries in self.kinds.items():
            turned = orthogonalize(torch.cat([laid for _, laid, _ in entries]), dtype)
            for (weight, laid, length), one in zip(entries, turned.split([len(e[1]) for e in entries]), strict=True):
                upright = one if weight.shape[0] // len(laid) == short else one.mT
                weight.add_(upright.reshape(weight.shape), alpha=length)


def orthogonalize(matrices: Tensor, dtype: torch.dtype = torch.float32, steps: int = _STEPS) -> Tensor:
    """Return the nearest matrices with (about) orthonormal rows, by a Newton-Schulz iteration.

    X <- (a I + b A + c A^2) X with A = X X^T, from X = G / |G|. All its factors are polynomials of the first A, so that
    wide matrices need only two products with X: in float32 the iteration runs on [n, n] and its product is applied at
    the end.

    Args:
        matrices: [B, n, m] with n <= m, of any scale.
        dtype: Of the products, float32 or bfloat16.
        steps: Of the iteration.

    Returns:
        [B, n, m], float32; singular values between about 0.7 and 1.2 where they were not negligible.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(torch.float32)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    if x.shape[2] < 1.5 * x.shape[1] or dtype != torch.float32:
        x = x.to(dtype)
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x.to(torch.float32)
    gram = x @ x.mT  # float32's digits suffice for the square; bfloat16's would not
    product = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ x
