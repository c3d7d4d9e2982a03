"""What a student may match besides the teachers' answers: `TERMS` lists the objectives on features.

`FeatureTerms` adds up those of a `LossConfig`. Layers that a config does not name are the deepest that fit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..config import LossConfig, TermConfig
from ..errors import PocketError
from ..models.taps import Layers, list_layers
from ..teachers import Teacher
from .alignment import pooled, projection, tokens_of
from .attention import RELATION_HEADS, attention_transfer, patch_attention
from .batch import Batch
from .combine import temperature_at
from .hints import Orthogonal, fitnets, locality, vkd
from .matching import Compare, CrdTerm, CskdTerm, MapTerm, MeanTeacherTerm, Moment, Pair, QkvTerm, Term, VitkdTerm
from .probabilistic import pkt
from .relations import correlation, manifold, rkd, similarity

TermNeeds = Literal["features", "full", "average"]
"""What a term looks at: a teacher's layers, all its logits, the weight average of the student."""


def deepest(layers: Layers) -> list[str]:
    """Return the layer that terms compare unasked.

    The last block's tokens rather than the final norm's: a norm gives every place the same energy.
    """
    return (layers.blocks() or [layers.last()])[-1:]


def _spread(names: list[str], count: int) -> list[str]:
    """``count`` of the names, evenly spread, the last among them."""
    return [names[round((i + 1) * len(names) / count) - 1] for i in range(count)]


def _stages(student: Layers, teacher: Layers) -> list[Pair]:
    mine, theirs = (layers.blocks() or layers.stages()[-3:] for layers in (student, teacher))
    count = min(3, len(mine), len(theirs))
    return list(zip(_spread(mine, count), _spread(theirs, count), strict=True))


def _shallow_and_deep(student: Layers, teacher: Layers) -> list[Pair]:
    mine, theirs = student.blocks() or student.stages(), teacher.blocks() or teacher.stages()
    count = min(2, len(mine) - 1, len(theirs) - 1)
    return [*zip(mine[:count], theirs[:count], strict=True), (mine[-1], theirs[-1])]


def _attention(student: Layers, teacher: Layers) -> list[Pair]:
    for layers, who in ((student, "student"), (teacher, "teacher")):
        if not layers.attentions():
            raise PocketError(
                f"minilm relates queries, keys and values, and the {who} {type(layers.model).__name__} has no "
                "attention layer named qkv: it needs a vision transformer. Use manifold, similarity or rkd for others."
            )
    pair = student.attentions()[-1], teacher.attentions()[-1]
    patches = [layers.shapes[name][0] - layers.prefix for layers, name in zip((student, teacher), pair, strict=True)]
    if patches[0] != patches[1]:
        raise PocketError(
            f"minilm compares patches one to one, and the student has {patches[0]}, the teacher {patches[1]}. Choose "
            "--patch and the teacher's input size so that they are equal, or use manifold."
        )
    for layers, name in zip((student, teacher), pair, strict=True):
        if layers.channels(name) % (3 * RELATION_HEADS):
            raise PocketError(
                f"minilm cuts queries into {RELATION_HEADS} heads, and the {layers.channels(name) // 3} channels of "
                f"{type(layers.model).__name__} are no multiple of that."
            )
    return [pair]


@dataclass(frozen=True)
class Kind:
    """How a term is made.

    Attributes:
        pairs: The layers that are compared when none are named.
        make: The term for given pairs.
        family: It belongs to.
        needs: What it looks at.
    """

    pairs: Callable[[Layers, Layers], list[Pair]]
    make: Callable[[Layers, Layers, list[Pair], Teacher | None], Term]
    family: str
    needs: tuple[TermNeeds, ...] = ("features",)


def _one(student: Layers, teacher: Layers) -> list[Pair]:
    return [(deepest(student)[0], deepest(teacher)[0])]


def _maps(function: Compare, family: str, form=None, project=None, pairs=_one) -> Kind:
    return Kind(pairs, lambda s, t, chosen, _: MapTerm(s, t, chosen, function, form, project), family)


def _make_cskd(student: Layers, teacher: Layers, pairs: list[Pair], live: Teacher | None) -> Term:
    if len(pairs) != 1:
        raise PocketError(f"cskd compares one pair of layers, and {len(pairs)} are named: name the last ones, or none.")
    return CskdTerm(student, teacher, pairs, None if live is None else live.columns)


TERMS: dict[str, Kind] = {
    "fitnets": _maps(fitnets, "features", project=projection),
    "locality": _maps(locality, "features", project=projection, pairs=_stages),
    "vkd": _maps(vkd, "features", pooled, Orthogonal),
    "vitkd": Kind(_shallow_and_deep, lambda s, t, chosen, _: VitkdTerm(s, t, chosen), "features"),
    "rkd": _maps(rkd, "relations", pooled),
    "similarity": _maps(similarity, "relations", lambda maps: maps.flatten(1)),
    "correlation": _maps(correlation, "relations", pooled),
    "pkt": _maps(pkt, "relations", pooled),
    "crd": Kind(_one, lambda s, t, chosen, _: CrdTerm(s, t, chosen), "contrast"),
    "manifold": _maps(manifold, "relations", tokens_of),
    "attention_transfer": _maps(attention_transfer, "attention"),
    "patch_attention": _maps(patch_attention, "attention", tokens_of),
    "minilm": Kind(_attention, lambda s, t, chosen, _: QkvTerm(s, t, chosen), "attention"),
    "cskd": Kind(lambda s, t: [(s.last(), t.last())], _make_cskd, "annealing", ("features", "full")),
    "mean_teacher": Kind(
        lambda s, t: [], lambda s, t, chosen, _: MeanTeacherTerm(s, t, []), "self-distillation", ("average",)
    ),
}


def term_needs(config: LossConfig) -> set[TermNeeds]:
    """Return what the terms of a loss look at, before any network is there."""
    return {need for wanted in config.terms for need in kind_of(wanted.objective).needs}


def kind_of(name: str) -> Kind:
    """Return the kind of a term.

    Raises:
        PocketError: There is none of that name; says which are near.
    """
    if name not in TERMS:
        near = difflib.get_close_matches(name, TERMS, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        known = ", ".join(TERMS)
        raise PocketError(f"--match: there is no objective {name!r} on features.{hint} There are: {known}, and none.")
    return TERMS[name]


class FeatureTerms(nn.Module):
    """The terms of a loss, for one student and its teachers; each counts by its weight, averaged over the teachers.

    Args:
        config: Gives the terms and the temperature.
        student: The network that learns, on its device.
        side: Of its input, in pixels.
        teachers: Whose features are matched.
    """

    def __init__(self, config: LossConfig, student: nn.Module, side: int, teachers: Sequence[Teacher]) -> None:
        super().__init__()
        self.config = config
        layers = list_layers(student, side)
        theirs = [(teacher, list_layers(teacher.module, teacher.input_size)) for teacher in teachers]
        self.owners: list[tuple[int, int]] = []  # of each term: number in the config, number of its teacher
        terms = []
        for number, wanted in enumerate(config.terms):
            kind = kind_of(wanted.objective)
            if "features" not in kind.needs:
                sides: list[tuple[Teacher | None, Layers]] = [(None, layers)]
            elif theirs:
                sides = list(theirs)
            else:
                raise PocketError(
                    f"the objective {wanted.objective} matches a teacher's features, and there is no teacher."
                )
            for index, (teacher, other) in enumerate(sides):
                detects = teacher is not None and teacher.kind == "boxes"
                terms.append(kind.make(layers, other, _pairs(kind, wanted, layers, other, detects), teacher))
                self.owners.append((number, index))
        self.terms = nn.ModuleList(terms).to(next(student.parameters()).device)
        self.names = _distinct([wanted.objective for wanted in config.terms])

    @property
    def student_layers(self) -> list[str]:
        """Layers of the student that are to be recorded."""
        return list(dict.fromkeys(mine for term in self.terms for mine, _ in term.pairs))  # type: ignore[union-attr]

    def teacher_layers(self, index: int) -> list[str]:
        """Layers of teacher ``index`` that are to be recorded."""
        owned = [term for term, (_, owner) in zip(self.terms, self.owners, strict=True) if owner == index]
        return list(dict.fromkeys(theirs for term in owned for _, theirs in term.pairs))  # type: ignore[union-attr]

    @property
    def needs_average(self) -> bool:
        """Whether a term looks at what the student's weight average answers."""
        return "average" in term_needs(self.config)

    @property
    def any_size(self) -> bool:
        """Whether pictures may be smaller than those that the layers were listed for."""
        return not any(isinstance(term, QkvTerm) for term in self.terms)  # as many patches as the teacher's

    def forward(self, recorded: dict[str, Tensor]) -> list[list[Tensor]]:
        """Project the student's recorded features, for each term."""
        return [term([recorded[mine] for mine, _ in term.pairs]) for term in self.terms]  # type: ignore[union-attr]

    def compare(
        self, projected: list[list[Tensor]], heads: Sequence[Tensor], batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the terms, and each one's detached value before its weight."""
        temperature = temperature_at(self.config, batch.progress)
        values: list[list[Tensor]] = [[] for _ in self.config.terms]
        for term, mine, (number, index) in zip(self.terms, projected, self.owners, strict=True):
            theirs = [batch.features[index][name] for _, name in term.pairs]  # type: ignore[union-attr]
            moment = Moment(heads, batch, temperature, index)
            values[number].append(term.compare(mine, theirs, moment))  # type: ignore[operator]
        means = [torch.stack(parts).mean() for parts in values]
        total = torch.stack([w.weight * mean for w, mean in zip(self.config.terms, means, strict=True)]).sum()
        return total, {name: mean.detach() for name, mean in zip(self.names, means, strict=True)}


def _pairs(kind: Kind, wanted: TermConfig, student: Layers, teacher: Layers, detects: bool) -> list[Pair]:
    """The layers that a term's config names (several by commas), else the objective's own choice.

    Of detectors that are not ours there is none: their last maps are answers.
    """
    if detects and not wanted.teacher and teacher.body[1] is teacher.model:
        maps = [name for name in teacher.shapes if min(teacher.grid(name) or (0,)) > 1]
        some = [name for name in maps if "backbone" in name] or maps or ["backbone"]
        raise PocketError(
            f"which maps of this detector ({type(teacher.model).__name__}) are its features is not known: name them, "
            f"as in --match '{wanted.objective}:1@{deepest(student)[0]}>{some[-1]}'."
        )
    if not wanted.student and not wanted.teacher:
        return kind.pairs(student, teacher)
    mine, theirs = (
        [layers.named(name.strip()) for name in names.split(",")] if names else deepest(layers)
        for layers, names in ((student, wanted.student), (teacher, wanted.teacher))
    )
    if len(mine) != len(theirs):
        raise PocketError(
            f"{wanted.objective} names {len(mine)} layers of the student and {len(theirs)} of the teacher: name as "
            "many of each, in pairs."
        )
    return list(zip(mine, theirs, strict=True))


def _distinct(names: list[str]) -> list[str]:
    return [f"{name}_{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]
