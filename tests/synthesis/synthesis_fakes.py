"""A teacher that knows something and is made in a second: which colour a picture mostly has."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pocketvit.synthesis import Procedural
from pocketvit.teachers import load_teacher

SIZE = 16
CLASSES = ("red", "green", "blue")


class ColourNet(nn.Module):
    """Two convolutions with a norm each, and a linear head."""

    def __init__(self, norm=nn.BatchNorm2d, classes=3):
        super().__init__()
        self.num_classes = classes
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), norm(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, 2, 1), norm(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


class Cut(nn.Module):
    """A network that no gradient passes through."""

    def __init__(self, network):
        super().__init__()
        self.network, self.num_classes = network, network.num_classes

    def forward(self, x):
        return self.network(x).detach()


def group_norm(channels):
    return nn.GroupNorm(4, channels)


def colour_network(norm=nn.BatchNorm2d, steps=150):
    """Train a network to name the strongest colour of drawn pictures (of a row that the tests do not use)."""
    pixels = torch.from_numpy(Procedural(99, SIZE).take(np.arange(1024))).float() / 255
    targets = pixels.mean((2, 3)).argmax(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ColourNet(norm)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(0, len(pixels), (64,), generator=generator)
        loss = F.cross_entropy(model(pixels[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def teacher_of(module, **options):
    names = CLASSES if getattr(module, "num_classes", 3) == 3 else None
    return load_teacher(module, **{"input_size": SIZE, "norm": "none", "classes": names, **options})
