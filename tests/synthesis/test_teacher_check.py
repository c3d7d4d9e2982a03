"""A teacher that nothing can be made from is told so in one message, with what to do."""

import warnings

import numpy as np
import pytest
import synthesis_fakes
import torch
from torch import nn

from pocketvit.errors import PocketError
from pocketvit.synthesis import check_teacher


class Changed(nn.Module):
    """The colour network with something done to its answers."""

    def __init__(self, network, change):
        super().__init__()
        self.network, self.change, self.num_classes = network, change, 3

    def forward(self, x):
        return self.change(self.network(x))


def told(module, **options):
    with pytest.raises(PocketError) as error:
        check_teacher(synthesis_fakes.teacher_of(module, **options))
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.softmax(1), "gives probabilities.*Remove the softmax"),
        (lambda z: torch.zeros_like(z), "says the same of every picture.*--teacher-norm.*--teacher-size"),
        (lambda z: z + torch.tensor([99.0, 0, 0]), r"gives one class \(red\) to whatever it is shown"),
        (lambda z: 1e-3 * z, "is confident of nothing"),
        (lambda z: z / 0, "not finite"),
        (lambda z: z + torch.randn_like(z), "other answers when asked again"),
        (lambda z: z - z.mean(0), "answers a picture otherwise when others stand beside it"),
    ],
)
def test_answers_that_are_no_use(network, change, message):
    import re

    assert re.search(message, told(Changed(network, change)))


def test_probabilities_are_seen_where_some_classes_are_asked_for(network):
    teacher = synthesis_fakes.teacher_of(Changed(network, lambda z: 1 - (-z).sigmoid())).with_columns(np.array([0, 2]))
    with pytest.raises(PocketError, match="gives probabilities"):
        check_teacher(teacher)


def test_quantized_and_frozen_networks_differ_by_their_weights():
    def networks(seed):
        torch.manual_seed(seed)
        plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
            yield torch.jit.freeze(torch.jit.trace(plain, torch.zeros(1, 3, 16, 16)))

    for one, same, other in zip(networks(0), networks(0), networks(1), strict=True):
        first, again, second = (synthesis_fakes.teacher_of(net, classes=None) for net in (one, same, other))
        assert first.fingerprint == again.fingerprint != second.fingerprint


def test_a_single_class(network):
    class Single(nn.Module):
        num_classes = 1

        def forward(self, x):
            return x.mean((1, 2, 3))[:, None]

    assert "has a single class" in told(Single())


def test_a_network_that_cannot_take_its_size(network):
    teacher = synthesis_fakes.teacher_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3)), classes=None)
    teacher.input_size = 20
    with pytest.raises(PocketError, match=r"cannot take pictures of 20 x 20 pixels.*--teacher-size"):
        check_teacher(teacher)


def test_training_mode(network):
    teacher = synthesis_fakes.teacher_of(network)
    teacher.module.norm1.train()
    with pytest.raises(PocketError, match=r"training mode \(its layer norm1\)"):
        check_teacher(teacher)


def test_a_good_teacher_passes(teacher):
    check = check_teacher(teacher)
    assert check.differentiable
    assert check.answered == 3


def test_no_gradient_is_no_error_but_said(network):
    check = check_teacher(synthesis_fakes.teacher_of(Changed(network, lambda z: z.detach())))
    assert not check.differentiable
    assert "no gradient passes" in check.words
