"""int8 files that keep what they promise: checked on validation images, layers taken back where they lose too much."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from torch import nn

from ..compression import Calibration, Quantized, calibration_views, fake_quantize, fold_norms, quantize
from ..compression.quantize import points_lost
from ..deployment.int8 import BITS, open_graph, quantize_int8, save_int8
from ..deployment.signature import Signature
from ..sources.base import Source
from ..sources.subset import Subset
from ..sources.targets import labelled
from ..training.step import Input
from .answering import batches, file_answers, road_answers
from .images import Road, known

log = logging.getLogger("pocketvit")

CHECKED = 1000  # images at most on which a file is compared with its fp32 form, and no more are needed for half a point
CALIBRATED = 256  # views that scales of activations are taken from
MAX_DROP = 0.5  # points
FEW = round(100 / MAX_DROP)  # images, of fewer of which a single one is more than that


@dataclass(frozen=True)
class Rounding:
    """How a network becomes an int8 file.

    Attributes:
        activations: Their scales are found while the file runs ("dynamic"), or were calibrated ("static": QDQ, which
            accelerators of phones take).
        bits: Of weights; 7 is safe on every x86 processor.
        max_drop: Points that the file may lose to its fp32 form.
        asked: Where somebody asked for the file: what to do if there is none that is good enough. "" where the fp32
            file is shipped then.
    """

    activations: Literal["dynamic", "static"] = "dynamic"
    bits: int = BITS
    max_drop: float = MAX_DROP
    asked: str = ""


USUAL = Rounding()


def write_int8(
    model: nn.Module,
    fp32: Path,
    int8: Path,
    road: Road,
    input: Input,
    rounding: Rounding,
    *,
    trained: nn.Module | None = None,
) -> str:
    """Write the int8 file of a network beside its fp32 file, good enough on the road's validation images; say how.

    Args:
        model: The network.
        fp32: Its exported file.
        int8: To be written.
        road: Gives images to check on (validation; without labels there, what fp32 says of training views)
            and to calibrate with (training).
        input: What the network is fed.
        rounding: How.
        trained: The network that was trained with its rounding (`fake_quantize`), whose integers are taken.

    Raises:
        NotSmaller: Calibration images are of no use, or not even the file with every layer in fp32 is good enough.
    """
    graph, signature = open_graph(fp32)
    score, words = file_score(road, signature, fp32)
    plain = rounding.activations == "dynamic" and trained is None
    if plain and rounding.bits == BITS:
        lost = points_lost(score(graph), score(onnx.load(quantize_int8(fp32, int8))))
        if lost <= rounding.max_drop:
            return Quantized(graph, lost, ()).text(words)
        log.info("         the int8 file loses %.2f points%s: layers are taken back", lost, words)
    calibration = calibrating(road)
    if trained is None:
        plainer = fold_norms(copy.deepcopy(model).float().cpu(), input[0])  # the exported network, layer for layer
        trained = fake_quantize(
            plainer, calibration.pixels, input, bits=rounding.bits, activations=rounding.activations, learned=False
        )
    found = quantize(trained, graph, score, calibration.pixels, input, max_drop=rounding.max_drop)
    save_int8(found.model, signature, int8)
    how = "" if rounding.activations == "dynamic" else f"; scales from {calibration.text()}"
    return found.text(words) + how


def calibrating(road: Road) -> Calibration:
    """Return the views that scales are taken from."""
    return calibration_views(road.views, CALIBRATED, origin="synthetic" if road.dataset.synthetic else "real")


def file_score(road: Road, signature: Signature, fp32: Path) -> tuple[Callable[[onnx.ModelProto], float], str]:
    """Return what scores a graph (0 to 1) under ONNX Runtime, and on what, in words; see `score_of_files`."""
    given, words = score_of_files(road, fp32)

    def score(graph: onnx.ModelProto) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return given(save_int8(_copy(graph), signature, Path(folder) / "graph.onnx"))

    return score, words


def score_of_files(road: Road, fp32: Path) -> tuple[Callable[[Path], float], str]:
    """Return what scores a file (0 to 1) under its runtime, and on what, in words.

    On validation images it is the task's score. Where they have no labels, or are so few that one of them is more than
    what may be lost, it is what the file keeps on training images of the answers that the fp32 one gives (`Task.kept`).
    """
    source = road.dataset.val
    count = int(labelled(source.targets).sum()) if source is not None and known(source) else 0
    field, why = "", ""
    if source is not None and count:
        some = _some(source)
        field = _field(road, some, road_answers({"": file_answers(fp32)}, road, some)[""])
        if not field or (field == "val_accuracy" and count < FEW):
            why = f" ({count:,} validation images are too few)"
    if why or not field:
        given, words = _following(road, fp32)
        words += why
    else:

        def given(path: Path) -> float:
            scores = road.task.validate(road_answers({"": file_answers(path)}, road, some)[""], some.targets)
            value = float(scores.get(field, 0.0))
            return value if math.isfinite(value) else 0.0

        words = f"{len(some):,} validation images"
    return given, f" on {words}"


def _field(road: Road, some: Source, answers: np.ndarray) -> str:
    """Return the score that these images tell: the task's, or accuracy where no label has both kinds; "" for none."""
    scores = road.task.validate(answers, some.targets)
    return next((name for name in (road.task.score, "val_accuracy") if math.isfinite(scores.get(name, math.nan))), "")


def _following(road: Road, fp32: Path) -> tuple[Callable[[Path], float], str]:
    """Return how much a file keeps of its fp32 form's answers to training images, and on what, in words.

    Few images are seen in further views, until one answer is no more than what may be lost.
    """
    some = _some(road.dataset.train)
    rounds = max(0, -(-FEW // max(len(some), 1)) - 1)
    more = [road.views.render(np.arange(len(some)), view).pixels for view in range(rounds)]

    def answers(path: Path) -> np.ndarray:
        answer = file_answers(path)
        plain = batches(road.pixels(some), road.view)
        return np.concatenate([answer(seen) for seen in (*plain, *(part for view in more for part in view.split(64)))])

    expected = answers(fp32)
    seen = f"{len(some) * (1 + rounds):,} views of " if rounds else ""
    words = f"{seen}{len(some):,} training images, by fp32's own probabilities"
    return lambda path: float(road.task.kept(expected, answers(path))), words


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    return copy


def _some(source: Source) -> Source:
    """Return at most `CHECKED` images, spread evenly."""
    if len(source) <= CHECKED:
        return source
    return Subset(source, np.unique(np.linspace(0, len(source) - 1, CHECKED).astype(np.int64)))
