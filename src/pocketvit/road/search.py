"""`compress --fit 3MB,20ms`: by which way a student should come to fit, found out by going a stretch of each.

A way is whether blocks share their layers and how many bits weights have; each is pruned as little as its file allows,
by exact sizes and measured times. What is left is recovered briefly from the stored labels, and the file that answers
best on validation images goes on: the stage after this one gives it the rest of the recovery.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..compression import fake_quantize, fold_norms, freeze, quantize, share, weight_bytes
from ..compression.fakequant import quantized
from ..compression.prune import prunable
from ..config import RunConfig
from ..deployment.budget import SLACK, Budget
from ..deployment.export import export_onnx
from ..deployment.int8 import open_graph, quantize_int8, save_int8
from ..deployment.latency import measure
from ..errors import PocketError
from ..files import counted, human_bytes, read_json, write_json
from ..models.flops import count_parameters
from ..models.saving import load_model, save_model
from ..settings import Compress
from ..training.distributed import from_rank_zero
from .base import Stage, Walk
from .compress import labels_of, prune_by_loss, recovered, rounding_of, with_rounding
from .reopen import Reopened, Taught
from .rounding import calibrating, score_of_files
from .ship import FP32, INT8, preprocessing_of, shipped
from .train import train_network

log = logging.getLogger("pocketvit")

_TRIES = 6  # prunings until a file fits
_BRIEFLY = 0.25  # of the epochs of recovery, for each way that is tried


@dataclass(frozen=True)
class Tried:
    """One way to a file that fits, and how far it came.

    Attributes:
        name: In words.
        share: Blocks that share their layers; None for none.
        quantize: How the int8 file is made.
        bits: Of its weights.
        keep: Bytes of weights that pruning was to leave, as a share; None where nothing fits.
        parameters: Of the network.
        bytes: Of its file.
        ms: Median of one image on this machine; None where no time was asked for.
        score: Of its file after the brief recovery, 0 to 1; None where it was not recovered.
        note: Why not.
        chosen: Whether it goes on.
    """

    name: str
    share: int | None
    quantize: str
    bits: int
    keep: float | None = None
    parameters: int | None = None
    bytes: int | None = None
    ms: float | None = None
    score: float | None = None
    note: str = ""
    chosen: bool = False

    @property
    def steps(self) -> set[object]:
        """What is done beside pruning."""
        return {step for step in (self.share and "shared", self.bits < 8 and "fewer bits") if step}


class Search(Stage):
    """The way by which a student comes to fit, chosen, and its network as the brief recovery left it."""

    name = "search"
    reads = ("images",)

    def __init__(self, reopened: Reopened) -> None:
        self.reopened = reopened

    def run(self, walk: Walk) -> None:
        whole, walk.input = walk.config, self.reopened.input
        found = walk.folder / "search" / "tried.json"
        if not found.is_file():
            report = self._search(walk)
            write_json(found, report)
        report = read_json(found)
        best = next(way for way in map(_read, report["ways"]) if way.chosen)
        walk.settings = _settings(walk, best)
        walk.config = _rest(recovered(whole, walk.settings), walk.settings)
        walk.extra["tried"] = report
        if best.score is not None:
            after = " after a brief recovery" if walk.settings.recover else ""
            walk.notes.append(
                f"{best.name}: chosen of {counted(len(report['ways']), 'way')} to fit {walk.settings.fit}, by the int8 "
                f"files' answers{after} ({100 * best.score:.1f} % on {report['on']})"
            )

    def _search(self, walk: Walk) -> dict[str, Any]:
        """Try the ways, keep the network of the best one, and return what was found."""
        origin, world = self.reopened, walk.road.processes.world
        before = shipped(origin.chain[-1].folder)
        score, words = score_of_files(walk.road, origin.chain[-1].folder / FP32)
        taught = labels_of(walk, origin)
        log.info("search   what fits %s, pruned as little as that takes", Budget(**vars(walk.settings.budget)))
        tried = _left_out([_narrowed(walk, origin, way, taught) for way in ways(walk.settings, origin)])
        files, models = {}, {}
        for number, way in enumerate(tried):
            if not way.note:
                models[way.name] = model = _recovered(walk, way, taught)
                files[way.name] = write_file(walk, model, _settings(walk, way), _place(walk, way))
                value = from_rank_zero(score(files[way.name]), world)
                tried[number] = dataclasses.replace(way, score=value)
        timed = measure({"": before, **files}, image_size=walk.input[0], seconds=0.5 * (1 + len(files)))
        times = from_rank_zero({name: one.p50 for name, one in timed.items()}, world)
        best = max((way for way in tried if way.score is not None), key=lambda way: (way.score, -(way.bytes or 0)))
        tried = [
            dataclasses.replace(way, ms=times.get(way.name, way.ms), chosen=way.name == best.name) for way in tried
        ]
        first = Tried("as it was", None, "", 8, 1.0, None, before.stat().st_size, times[""], score(before))
        log.info("         scores are%s", words)
        for line in _table([first, *tried]):
            log.info("         %s", line)
        _keep(walk, best, models[best.name])
        told = {"on": words.removeprefix(" on "), "recovered": walk.settings.recover}
        return told | {"before": asdict(first), "ways": [asdict(way) for way in tried]}


def ways(settings: Compress, origin: Reopened) -> list[Tried]:
    """Return what may be tried beside pruning, the simplest first: what the settings say, or else all that can be.

    Raises:
        PocketError: The student cannot be pruned.
    """
    model = origin.student.module
    prunable(model)
    shares: list[int | None] = [settings.share] if settings.share else [None, *_shares(model)]
    kinds = [(settings.quantize, settings.bits)] if settings.quantize != "none" else [("dynamic", 8)]
    if settings.quantize == "none" and settings.recover:  # so few bits have to be trained
        kinds.append(("qat", 4))
    return [
        Tried(f"{bits} bits" + (f", shared by {count} blocks" if count else ""), count, kind, bits)
        for kind, bits in kinds
        for count in shares
    ]


def write_file(walk: Walk, model: nn.Module, settings: Compress, folder: Path) -> Path:
    """Write the int8 file of a network into a folder, every layer in integers; return its path.

    Args:
        walk: Gives classes, preprocessing, and images to calibrate with.
        model: Plain, or trained with its rounding.
        settings: How the file is made.
        folder: To write into.
    """
    fp32, int8, road = folder / FP32, folder / INT8, walk.road
    trained = bool(quantized(model))
    plain = freeze(model).cpu() if trained else model.cpu().eval()
    about = preprocessing_of(road, walk.input)
    export_onnx(plain, fp32, classes=road.dataset.classes, preprocessing=about, task=road.task)
    rounding = rounding_of(settings)
    if rounding.activations == "dynamic":
        return quantize_int8(fp32, int8)
    seen = calibrating(road).pixels
    if not trained:
        folded = fold_norms(copy.deepcopy(plain).float(), walk.input[0])
        model = fake_quantize(folded, seen, walk.input, bits=rounding.bits, activations="static", learned=False)
    graph, signature = open_graph(fp32)
    whole = quantize(model.cpu(), graph, lambda _: 0.0, seen, walk.input)  # nothing lost: no layer is taken back
    return save_int8(whole.model, signature, int8)


def _shares(model: nn.Module) -> list[int]:
    try:
        share(model, 2)
    except PocketError:
        return []
    return [2]


def _settings(walk: Walk, way: Tried) -> Compress:
    return dataclasses.replace(walk.settings, share=way.share, quantize=way.quantize, bits=way.bits)


def _narrowed(walk: Walk, origin: Reopened, way: Tried, taught: Taught) -> Tried:
    """Return a way with its figures once the student is pruned so far that its file fits; made once."""
    folder = _place(walk, way)
    if (folder / "way.json").is_file():
        return _read(read_json(folder / "way.json"))
    budget, world = Budget(**vars(walk.settings.budget)), walk.road.processes.world
    settings, model, keep = _settings(walk, way), origin.student.module, 1.0
    smaller = model
    done = dataclasses.replace(way, note=f"does not fit after {_TRIES} prunings")
    for _ in range(_TRIES):
        made = share(smaller, way.share) if way.share else smaller
        size, ms = from_rank_zero(_costs(walk, made, settings, timed=budget.ms is not None), world)
        log.info("         %s: %s parameters, %s", way.name, f"{count_parameters(made):,}", _cost_words(size, ms))
        if budget.excess(size + SLACK, ms) is None:
            _save(walk, made, folder / "shrunk")
            count = count_parameters(made)
            done = dataclasses.replace(way, keep=keep, parameters=count, bytes=size, ms=ms)
            break
        weights = weight_bytes(dict(made.named_parameters()), min(way.bits, 8))
        shares = [1.0]
        if budget.bytes is not None:
            shares.append((budget.bytes - SLACK - (size - weights)) / weights)  # the graph itself stays as large
        if budget.ms is not None and ms is not None:
            shares.append(budget.ms / ms)
        keep *= min(shares) * 0.98
        if keep <= 0:
            done = dataclasses.replace(way, note="does not fit: the graph alone takes more")
            break
        try:
            smaller = prune_by_loss(walk.road, walk.config, model, keep, walk.input, of="bytes", **taught._asdict())
        except PocketError as error:
            done = dataclasses.replace(way, note=f"does not fit: {error}")
            break
    write_json(folder / "way.json", asdict(done))
    return done


def _left_out(tried: Sequence[Tried]) -> list[Tried]:
    """Return the ways, those marked that a simpler one makes needless: it needs no narrower network.

    Raises:
        PocketError: None fits.
    """
    result: list[Tried] = []
    for way in tried:
        simpler = [
            other
            for other in tried
            if other.keep is not None and way.keep is not None and other.steps < way.steps and other.keep >= way.keep
        ]
        result.append(dataclasses.replace(way, note=f"not tried: {simpler[0].name} is as wide") if simpler else way)
    if all(way.note for way in result):
        told = "; ".join(f"{way.name}: {way.note}" for way in result)
        raise PocketError(f"--fit: nothing fits ({told}). Allow more, or take a smaller or shallower student.")
    return result


def _recovered(walk: Walk, way: Tried, taught: Taught) -> nn.Module:
    """Return a way's network after its brief recovery; one that was recovered before is opened."""
    folder, settings = _place(walk, way), _settings(walk, way)
    model = load_model(folder / "shrunk").module.to(walk.road.device)
    if settings.quantize == "qat":
        model = with_rounding(walk, model, settings)
    if not settings.recover:
        return model
    config = _brief(recovered(walk.config, settings))
    log.info("recover  %s, briefly: %s", way.name, counted(config.train.epochs, "epoch"))
    return train_network(walk.road, config, folder, model=model, input=walk.input, **taught._asdict())


def _brief(config: RunConfig) -> RunConfig:
    train = config.train
    return dataclasses.replace(
        config,
        train=dataclasses.replace(
            train, epochs=max(1, round(_BRIEFLY * train.epochs)), seconds=_BRIEFLY * train.seconds
        ),
    )


def _rest(config: RunConfig, settings: Compress) -> RunConfig:
    """Return the config of what is left of a recovery after its brief part."""
    if not settings.recover:
        return config
    brief = _brief(config).train
    return dataclasses.replace(
        config,
        train=dataclasses.replace(
            config.train,
            epochs=max(1, config.train.epochs - brief.epochs),
            seconds=config.train.seconds - brief.seconds,
        ),
    )


def _keep(walk: Walk, way: Tried, model: nn.Module) -> None:
    """Save the network that goes on where the next stage looks for it; of one that rounds, what it rounds."""
    plain = load_model(_place(walk, way) / "shrunk").module
    learned = model.state_dict()
    plain.load_state_dict({name: learned[name] for name in plain.state_dict()})
    _save(walk, plain, walk.folder / "shrunk")


def _save(walk: Walk, model: nn.Module, folder: Path) -> None:
    about = preprocessing_of(walk.road, walk.input)
    save_model(model, folder, classes=walk.road.dataset.classes, preprocessing=about, task=walk.road.task)


def _costs(walk: Walk, model: nn.Module, settings: Compress, *, timed: bool) -> tuple[int, float | None]:
    """Return the bytes of a network's file and, where they count, the milliseconds of one image."""
    with tempfile.TemporaryDirectory() as folder:
        network = _stirred(model)
        network = with_rounding(walk, network, settings) if settings.quantize == "qat" else network
        file = write_file(walk, network, settings, Path(folder))
        ms = measure({"": file}, image_size=walk.input[0], seconds=0.5)[""].p50 if timed else None
        return file.stat().st_size, ms


@torch.no_grad()
def _stirred(model: nn.Module) -> nn.Module:
    """Return a copy with no two tensors alike: a file stores those once, as what sharing adds to a block is at first.

    (A student of 69.7 kB had 71.0 when it was trained.)
    """
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return made


def _cost_words(size: int, ms: float | None) -> str:
    return f"file of {human_bytes(size)}" + (f", {ms:.3g} ms" if ms is not None else "")


def _place(walk: Walk, way: Tried) -> Path:
    return walk.folder / "search" / (f"{way.quantize}{way.bits}" + (f"-shared{way.share}" if way.share else ""))


def _read(way: dict[str, Any]) -> Tried:
    return Tried(**way)


def _table(tried: Sequence[Tried]) -> list[str]:
    """Return what was tried as aligned lines."""
    lines = [("way", "parameters", "int8 file", "p50", "score")]
    for way in tried:
        lines.append(
            (
                way.name,
                f"{way.parameters:,}" if way.parameters else "",
                human_bytes(way.bytes) if way.bytes else "",
                f"{way.ms:.3g} ms" if way.ms else "",
                f"{100 * way.score:.1f} %" if way.score is not None else way.note,
            )
        )
    widths = [max(len(line[place]) for line in lines) for place in range(4)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in (1, 2, 3)), line[4]]) for line in lines
    ]
