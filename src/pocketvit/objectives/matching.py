"""The parts of a loss on features: which layers of two networks a term compares, in what form, by what function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import PocketError
from ..models.taps import Layers
from .alignment import pooled, projection, shrink, tokens_of
from .annealing import cskd
from .attention import minilm, split_qkv
from .features import Generation, fitnets, vitkd_generation
from .self_distillation import mean_teacher

if TYPE_CHECKING:
    from ..training.feed import Batch

Pair = tuple[str, str]
Compare = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Moment:
    """What a comparison may look at besides features: the heads' logits, the batch, the temperature."""

    heads: Sequence[Tensor]
    batch: Batch
    temperature: float


class Term(nn.Module):
    """An objective between one student and one teacher.

    Attributes:
        pairs: (student's layer, teacher's layer), each by module path.
    """

    needs_average = False
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
        self.grids = [_common_grid(student, teacher, pair) for pair in pairs]
        self.projections = nn.ModuleList(
            project(student.channels(mine), teacher.channels(theirs)) if project else nn.Identity()
            for mine, theirs in pairs
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        maps = [self.student.map(pair[0], part) for pair, part in zip(self.pairs, features, strict=True)]
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


class CskdTerm(MapTerm):
    """CSKD: both classifiers at every place of the common grid."""

    def __init__(
        self,
        student: Layers,
        teacher: Layers,
        pairs: Sequence[Pair],
        head: nn.Linear,
        classifier: nn.Linear,
        columns: Any,
    ) -> None:
        super().__init__(student, teacher, pairs, fitnets)
        self.classifiers = head, classifier  # in a tuple: neither is a part of this module
        self.columns = columns

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        (maps,) = super().forward(features)
        return [self.classifiers[0](tokens_of(maps)).transpose(1, 2)]

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        maps = self.teacher.map(self.pairs[0][1], teacher[0])
        with torch.no_grad():
            whole = self._answer(pooled(maps))
            places = self._answer(tokens_of(self.shrunk([maps])[0])).transpose(1, 2)
        return cskd(student[0].float(), places, whole, moment.batch.progress, moment.temperature)

    def _answer(self, features: Tensor) -> Tensor:
        logits = self.classifiers[1](features)
        return logits if self.columns is None else logits[..., torch.from_numpy(self.columns).to(logits.device)]


class MeanTeacherTerm(Term):
    """The weight average of the student teaches it; no layer and no other teacher."""

    needs_average = True

    def compare(self, student: list[Tensor], teacher: list[Tensor], moment: Moment) -> Tensor:
        return mean_teacher(moment.heads, moment.batch.average, moment.temperature, moment.batch.progress)


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
    return min(grids[0][0], grids[1][0]), min(grids[0][1], grids[1][1])
