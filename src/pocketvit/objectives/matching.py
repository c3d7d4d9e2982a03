"""The parts of a loss on features: which layers of two networks a term compares, in what form, by what function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PocketError
from ..models.taps import Layers, channels_last
from .alignment import pooled, projection, shrink
from .annealing import cskd
from .attention import minilm, split_qkv
from .batch import Batch
from .contrastive import Embedding, crd
from .hints import Generation, fitnets, vitkd_generation
from .logits import all_logits
from .self_distillation import mean_teacher

Pair = tuple[str, str]
Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Moment:
    """What a comparison may look at besides features.

    Attributes:
        heads: The student's logits.
        batch: What it was shown.
        temperature: Of the loss, now.
        teacher: Which of the batch's teachers this is.
    """

    heads: Sequence[Tensor]
    batch: Batch
    temperature: float
    teacher: int


class Term(nn.Module):
    """An objective between one student and one teacher.

    Attributes:
        pairs: (student's layer, teacher's layer), each by module path.
    """

    student: Layers
    teacher: Layers

    def __init__(self, student: Layers, teacher: Layers, pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.pairs = list(pairs)
        self.student, self.teacher = student, teacher

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Bring the student's recorded features, one a pair, into the form that is compared."""
        return features

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        """Return the scalar loss of `forward`'s result against the teacher's recorded features, one a pair."""
        raise NotImplementedError


class MapTerm(Term):
    """Maps of equal grid, by pairs: shrunk to the smaller grid, brought into a form, projected, compared, averaged.

    Args:
        function: Of the two forms, to a scalar.
        form: From [B, C, h, w] to what ``function`` takes.
        project: Makes the learned layer from (student's width, teacher's width); None where widths may differ.
    """

    function: Compare
    form: Callable[[Tensor], Tensor]

    def __init__(
        self,
        student: Layers,
        teacher: Layers,
        pairs: Sequence[Pair],
        function: Compare,
        form: Callable[[Tensor], Tensor] | None = None,
        project: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__(student, teacher, pairs)
        self.function, self.form = function, form or (lambda maps: maps)
        self.common = [_common_grid(student, teacher, pair) for pair in pairs]
        self.grids = self.common
        self.projections = nn.ModuleList(
            project(student.channels(mine), teacher.channels(theirs)) if project else nn.Identity()
            for mine, theirs in pairs
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [self.student.map(pair[0], part) for pair, part in zip(self.pairs, features, strict=True)]
        # Of smaller pictures (see training.progressive) the student's maps are smaller than when they were listed.
        self.grids = [_smaller(grid, part.shape[2:]) for grid, part in zip(self.common, maps, strict=True)]
        return [layer(self.form(part)) for layer, part in zip(self.projections, self.shrunk(maps), strict=True)]

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        maps = [self.teacher.map(pair[1], part) for pair, part in zip(self.pairs, teacher, strict=True)]
        forms = [self.form(part) for part in self.shrunk(maps)]
        losses = [self.function(mine.float(), theirs) for mine, theirs in zip(student, forms, strict=True)]
        return torch.stack(losses).mean()

    def shrunk(self, maps: list[Tensor]) -> list[Tensor]:
        return [shrink(part, grid) for part, grid in zip(maps, self.grids, strict=True)]


class VitkdTerm(Term):
    """ViTKD: the first two layers are mimicked, the last one generated from its visible half; parts are averaged."""

    def __init__(self, student: Layers, teacher: Layers, pairs: Sequence[Pair]) -> None:
        super().__init__(student, teacher, pairs)
        self.shallow = MapTerm(student, teacher, pairs[:-1], fitnets, project=projection) if pairs[1:] else None
        self.deep = MapTerm(student, teacher, pairs[-1:], fitnets)
        mine, theirs = pairs[-1]
        self.generation = Generation(student.channels(mine), teacher.channels(theirs))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        generated = self.generation(self.deep(features[-1:])[0])
        return [*(self.shallow(features[:-1]) if self.shallow is not None else ()), *generated]

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        (target,) = self.deep.shrunk([self.teacher.map(self.pairs[-1][1], teacher[-1])])
        losses = [vitkd_generation(student[-2].float(), student[-1].float(), target)]
        if self.shallow is not None:
            losses.append(self.shallow.compare(student[:-2], teacher[:-1], moment))
        return torch.stack(losses).mean()


class QkvTerm(Term):
    """Relations of queries, keys and values of attention layers; both networks must have as many patches."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [split_qkv(part, self.student.prefix) for part in features]

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        theirs = [split_qkv(part, self.teacher.prefix) for part in teacher]
        return torch.stack([minilm(a, b) for a, b in zip(student, theirs, strict=True)]).mean()


class CrdTerm(MapTerm):
    """CRD: both sides' pooled features, each embedded by a learned layer of its own."""

    def __init__(self, student: Layers, teacher: Layers, pairs: Sequence[Pair]) -> None:
        super().__init__(student, teacher, pairs, crd, pooled, lambda channels, _: Embedding(channels))
        self.theirs = nn.ModuleList(Embedding(teacher.channels(name)) for _, name in pairs)

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        maps = [self.teacher.map(pair[1], part) for pair, part in zip(self.pairs, teacher, strict=True)]
        embedded = [layer(pooled(part)) for layer, part in zip(self.theirs, maps, strict=True)]
        return torch.stack([crd(mine.float(), theirs) for mine, theirs in zip(student, embedded, strict=True)]).mean()


class CskdTerm(MapTerm):
    """CSKD: both networks' own heads at every place of the common grid, and the teacher's answer to the whole image."""

    def __init__(self, student: Layers, teacher: Layers, pairs: Sequence[Pair], columns: Any) -> None:
        super().__init__(student, teacher, pairs, fitnets)
        self.columns = columns
        for layers, name, who in ((student, pairs[0][0], "student"), (teacher, pairs[0][1], "teacher")):
            check_head(layers, name, who)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        (maps,) = super().forward(features)
        return [answer_places(self.student, self.pairs[0][0], maps)]

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        maps = self.teacher.map(self.pairs[0][1], teacher[0])
        with torch.no_grad():
            places = answer_places(self.teacher, self.pairs[0][1], self.shrunk([maps])[0])
        if self.columns is not None:
            places = places[:, torch.from_numpy(self.columns).to(places.device)]
        whole = all_logits(moment.batch.soft[moment.teacher], "cskd")
        return cskd(student[0].float(), places, whole, moment.batch.progress, moment.temperature)


class MeanTeacherTerm(Term):
    """The weight average of the student teaches it; no layer and no other teacher."""

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        return mean_teacher(moment.heads, moment.batch.average, moment.temperature, moment.batch.progress)


def answer_places(layers: Layers, name: str, map_BChw: Tensor) -> Tensor:
    """Apply a network's own head, and the norm that may stand before it, to each place of a layer: [B, C, places].

    A place is given to it as a map of one place, or as a token that stands where every token stands: pooling returns
    it, whichever way the network pools.
    """
    model: Any = layers.model
    places = map_BChw.permute(0, 2, 3, 1).flatten(0, 2)
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else None
    if isinstance(classifier, tuple | list | nn.ModuleList):  # a head per distillation token: the class head
        logits = classifier[0](places)
    elif not hasattr(model, "forward_head"):
        logits = classifier(places)  # type: ignore[misc]
    elif len(layers.shapes[name]) == 2:
        logits = model.forward_head(places[:, None].expand(-1, layers.prefix + 1, -1))
    elif channels_last(model):
        logits = model.forward_head(places[:, None, None])
    else:
        logits = model.forward_head(places[:, :, None, None])
    return logits.unflatten(0, (len(map_BChw), -1)).transpose(1, 2)


def check_head(layers: Layers, name: str, who: str) -> None:
    """Raise `PocketError` for a network whose head cannot be asked about one place of a layer."""
    device = next(layers.model.parameters()).device
    try:
        with torch.no_grad():
            answer_places(layers, name, torch.zeros(2, layers.channels(name), 1, 1, device=device))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise PocketError(
            f"cskd asks the head about every place, which needs a {who} with forward_head() or get_classifier(), as "
            f"timm's have, and its last features; {type(layers.model).__name__} has none for {name!r}. Use kl or "
            "locality."
        ) from error


def _common_grid(student: Layers, teacher: Layers, pair: Pair) -> tuple[int, int]:
    grids = []
    for layers, name in zip((student, teacher), pair, strict=True):
        grid = layers.grid(name)
        if grid is None:
            raise PocketError(
                f"the layer {name!r} of {type(layers.model).__name__} has {layers.shapes[name][0] - layers.prefix} "
                "patches, which make no square grid, so that its places cannot be matched. Name another layer."
            )
        grids.append(grid)
    return _smaller(*grids)


def _smaller(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    return min(one[0], other[0]), min(one[1], other[1])
