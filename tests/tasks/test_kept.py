"""What a file keeps of its fp32 form's answers where no image has a label."""

import numpy as np
import pytest

from pocketvit.tasks import task_named

SURE = np.array([[0.9, 0.1, 0.0], [0.34, 0.33, 0.33]])


def turned(*rows: int) -> np.ndarray:
    """The same answers, but for these images, of which the first class and the second change places."""
    other = SURE.copy()
    other[list(rows)] = other[list(rows)][:, [1, 0, 2]]
    return other


@pytest.mark.parametrize(("rows", "lost"), [((), 0.0), ((0,), 0.8), ((1,), 0.01), ((0, 1), 0.81)])
def test_another_answer_costs_what_fp32_gave_its_own_more(rows, lost):
    task = task_named("classification")
    assert task.kept(SURE, turned(*rows)) == pytest.approx(1 - lost / 2)
    assert task.agreement(SURE, turned(*rows)) == 1 - len(rows) / 2


def test_of_several_labels_each_is_weighed_by_itself():
    task = task_named("multilabel")
    other = np.array([[0.1, 0.1, 0.0], [0.34, 0.6, 0.33]])  # one sure label lost, one that was never sure gained
    assert task.kept(SURE, other) == pytest.approx(1 - (0.8 + 0.34) / 6)
