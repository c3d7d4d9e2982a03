"""What one would do without any of this: scikit-learn's support vector machine, beside the student in its table."""

from __future__ import annotations

import logging

import numpy as np
import torch
from sklearn.svm import SVC
from torch import Tensor, nn

from ..sources.targets import labelled
from ..training.predict import plain_pixels
from ..views.resize import to_input
from .answering import network_answers
from .base import Stage, Walk
from .images import Road
from .measuring import Entry
from .train import pupils

log = logging.getLogger("pocketvit")


class SupportVectors(nn.Module):
    """A fitted `sklearn.svm.SVC` with the Gaussian kernel as a network, so that it is measured as the others are.

    Pictures [B, 3, S, S] -> the votes of its pairs of classes [B, C], as libsvm counts them; the first of equals wins.

    Args:
        machine: Fitted on `greys` of such pictures, with ``gamma`` a number.
    """

    def __init__(self, machine: SVC) -> None:
        super().__init__()
        self.gamma, self.num_classes = float(machine.gamma), len(machine.classes_)
        pairs = [(i, j) for i in range(self.num_classes) for j in range(i + 1, self.num_classes)]
        ends = np.cumsum([0, *machine.n_support_])
        weights = np.zeros((len(machine.support_vectors_), len(pairs)))
        signs = np.zeros((len(pairs), self.num_classes))
        for pair, (i, j) in enumerate(pairs):  # as libsvm stores them: a row for each *other* class
            weights[ends[i] : ends[i + 1], pair] = machine.dual_coef_[j - 1, ends[i] : ends[i + 1]]
            weights[ends[j] : ends[j + 1], pair] = machine.dual_coef_[i, ends[j] : ends[j + 1]]
            signs[pair, i], signs[pair, j] = 1, -1
        if self.num_classes == 2:  # scikit-learn turns the sign of a single pair
            signs = -signs
        self.vectors, self.weights = _fixed(machine.support_vectors_), _fixed(weights)
        self.bias, self.signs = _fixed(machine.intercept_), _fixed(signs)

    def forward(self, x: Tensor) -> Tensor:
        x = greys(x)
        squares = x.square().sum(1, keepdim=True) + self.vectors.square().sum(1) - 2 * x @ self.vectors.T
        decisions = torch.exp(-self.gamma * squares) @ self.weights + self.bias
        return torch.sign(decisions) @ self.signs


def _fixed(values: np.ndarray) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.ascontiguousarray(values)).float(), requires_grad=False)


def greys(x: Tensor) -> Tensor:
    """Return normalized pictures [B, 3, S, S] as vectors [B, S S] of their first channel: grey pictures have one."""
    return x[:, 0].flatten(1)


def support_vectors(road: Road) -> SupportVectors:
    """Fit a support vector machine to the labelled training images as a student sees them, unaugmented."""
    source = road.dataset.train
    rows = np.flatnonzero(labelled(source.targets))
    x = greys(to_input(plain_pixels(source, road.view)[rows], *road.input)).numpy().astype(np.float64)
    machine = SVC(gamma=1 / (x.shape[1] * x.var()))  # what scikit-learn calls "scale"
    return SupportVectors(machine.fit(x, np.asarray(source.targets)[rows]))


class Classic(Stage):
    """A support vector machine on all labels, and on those that the student saw."""

    name = "classic"
    reads = ("images",)
    writes = ("classic",)
    everyone = False

    def run(self, walk: Walk) -> None:
        seen = {"all": walk.road, f"{walk.settings.few_labels}": pupils(walk)}
        for labels, road in seen.items():
            machine = support_vectors(road)
            answer = network_answers(machine, road.input, road.task)
            name = f"scikit-learn's SVM, {labels} labels"
            walk.beside.append(
                Entry(f"svm-{labels}", name, "other", road.view.view_size, answer, machine, calibrated=False)
            )
            log.info("classic  %s: %d support vectors", name, len(machine.vectors))
