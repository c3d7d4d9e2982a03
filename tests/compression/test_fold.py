"""BatchNorm folded into convolutions: the same answers, and the weights that an exported graph has."""

from __future__ import annotations

import pytest
import torch
from compression_fakes import CLASSES, INPUT, OTHERS, PIXELS, SIDE, exported
from timm.layers import BatchNormAct2d
from timm.models.fastvit import MobileOneBlock
from torch import nn

from pocketvit.compression import answers, before_norms, fake_quantize, fold_norms, grids_of, write_integers


class Small(nn.Module):
    """Convolutions with norms behind them, one with an activation inside, and a shortcut."""

    def __init__(self, reads_twice: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), BatchNormAct2d(16)
        self.head = nn.Linear(16, len(CLASSES))
        self.reads_twice = reads_twice
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)

    def forward(self, x):
        x = self.bn1(self.first(x))
        made = self.second(x)
        x = x + self.bn2(made) + (made if self.reads_twice else 0)
        return self.head(x.mean((2, 3)))


def test_a_folded_network_answers_alike_and_the_network_is_left_alone():
    model = Small().eval()
    folded = fold_norms(model, SIDE)
    assert not any("BatchNorm" in type(module).__name__ for module in folded.modules())
    assert isinstance(model.bn1, nn.BatchNorm2d)
    torch.testing.assert_close(answers(folded, OTHERS, INPUT), answers(model, OTHERS, INPUT), atol=1e-4, rtol=1e-4)


def test_what_is_trained_with_its_rounding_leaves_out_convolutions_with_norms():
    """Their weights change when the norm is folded in: the file stores them in 8 bits."""
    model = Small().eval()
    kept = before_norms(model, SIDE)
    assert kept == ["second"]  # the first has 432 weights, and is rounded nowhere


def test_a_convolution_that_something_else_reads_is_left_alone():
    model = Small(reads_twice=True).eval()
    assert fold_norms(model, SIDE) is model


def branched():
    torch.manual_seed(0)
    blocks = [MobileOneBlock(3, 16, 3, stride=2), MobileOneBlock(16, 16, 3, num_conv_branches=2)]
    model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, len(CLASSES)))
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval()


def test_branches_that_only_training_needs_become_one_convolution(tmp_path):
    """No exporter does it: the file would hold, and compute, every branch."""
    model = branched()
    merged = fold_norms(model, SIDE)
    assert sum(isinstance(module, nn.Conv2d) for module in merged.modules()) == 2
    torch.testing.assert_close(answers(merged, OTHERS, INPUT), answers(model, OTHERS, INPUT), atol=1e-4, rtol=1e-4)
    assert [node.op_type for node in exported(model, tmp_path).graph.node].count("Conv") == 2
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 2  # left alone
    assert before_norms(model, SIDE) == ["1.conv_kxk.0.conv", "1.conv_kxk.1.conv"]  # of 1,024 weights and more


def test_a_method_of_that_name_that_means_something_else_is_not_believed():
    class Own(Small):
        def __init__(self):
            super().__init__()
            self.second.fuse = lambda: None

    model = Own().eval()
    assert isinstance(fold_norms(model, SIDE).second, nn.Conv2d)


@pytest.mark.slow
def test_convolutions_with_norms_are_found_in_the_exported_graph(tmp_path):
    model = Small().eval()
    rounded = fake_quantize(fold_norms(model, SIDE), PIXELS, INPUT)
    assert set(write_integers(exported(model, tmp_path), grids_of(rounded))) == {"second"}  # the first has 432 weights
