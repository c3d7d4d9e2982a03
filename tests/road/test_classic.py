"""The support vector machine beside the demo's student answers as scikit-learn does, and is measured as a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from pocketvit.models.flops import count_parameters
from pocketvit.road.classic import SupportVectors, greys


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_answers_as_scikit_learn(classes):
    pixels, targets = load_digits(return_X_y=True)
    known = targets < classes
    x = torch.from_numpy(pixels[known] / 16 - 0.5).float().reshape(-1, 1, 8, 8).expand(-1, 3, -1, -1)
    y, rows = targets[known], slice(0, 20 * classes)
    vectors = greys(x).double().numpy()
    machine = SVC(gamma=1 / (64 * vectors.var())).fit(vectors[rows], y[rows])
    network = SupportVectors(machine)
    assert np.array_equal(network(x).argmax(1).numpy(), machine.predict(vectors))
    assert count_parameters(network) > machine.support_vectors_.size
