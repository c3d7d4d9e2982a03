"""The stage of figures: every row of the honest table measured, and how far its student can be believed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..deployment.export import export_onnx
from ..deployment.int8 import quantize_int8
from ..deployment.latency import measure as measure_latency
from ..errors import PocketError
from ..metrics.calibration import ECE_BINS, reliability
from ..metrics.following import following
from ..models.flops import count_parameters
from ..models.inputs import input_stats
from ..sources.base import Source
from ..sources.targets import labelled
from ..sources.tiles import whole
from ..tasks import Task
from ..training.predict import predict_logits
from ..training.step import Input
from ..views.preprocessing import Preprocessing
from .answering import file_answers, network_answers
from .base import Cost, Stage, Walk
from .images import Road
from .instead import keep
from .measuring import EXPORTED, Entry, find, measure_rows, not_run, point_source, take_answers
from .rates import forward_seconds, training_seconds
from .ship import FP32, INT8
from .train import pupils

log = logging.getLogger("pocketvit")

_BIN_IMAGES = 30  # at least in a bin of a reliability curve: fewer draw noise
_STEP, _STUDENTS = 3.0, 4  # forward passes that a training step costs; rows of a student's kind, that answer one each
_PATIENCE = 120.0  # seconds that a teacher's int8 file may take on the scored images


def reliability_report(
    before: np.ndarray | None, after: np.ndarray | None, source: Source | None, task: Task
) -> dict[str, Any] | None:
    """Return the student's reliability curves for ``results.json``, with and without its temperature.

    Args:
        before: floating [N, C], its answers on the scored split as it was trained.
        after: The same once a temperature was fitted; None where none was.
        source: The scored split.
        task: Whose answers they are; only a softmax has one confidence to draw.
    """
    if source is None or before is None or task.kind != "softmax":
        return None
    scored = whole(source)
    counted = scored.targets >= 0
    if not counted.any():
        return None
    curves = {}
    for name, shown in (("before", before), ("after", after)):
        if shown is None:
            continue
        given = scored.per_image(shown)
        bins = min(ECE_BINS, max(3, int(counted.sum()) // _BIN_IMAGES))
        curve = reliability(given.max(1)[counted], (given.argmax(1) == scored.targets)[counted], bins)
        curves[name] = {key: getattr(curve, key).tolist() for key in ("confidence", "accuracy", "counts")}
    return curves


def token_report(model: nn.Module, teachers: Sequence[Entry], road: Road, input: Input) -> dict[str, Any]:
    """Return which teacher each head of a student with a token per teacher follows, for ``results.json``.

    Args:
        model: The student.
        teachers: In the order of the tokens, with their answers.
        road: Its scored split is looked at, without labels.
        input: What the student is fed.
    """
    assert road.scored is not None
    logits = predict_logits(model, road.pixels(road.scored), road.view, input)
    heads = [road.task.probabilities(head).numpy() for head in logits]
    given = [entry.probabilities for entry in teachers if entry.probabilities is not None]
    groups = road.scored.parents if road.scored.groups is None else road.scored.groups
    return following(heads, given, groups).data([entry.name.removeprefix("teacher: ") for entry in teachers])


class Score(Stage):
    """Every network and file measured: accuracy, agreement, calibration, size, latency, memory."""

    name = "score"
    reads = ("images", "student", "files")
    writes = ("rows",)
    everyone = False

    def cost(self, walk: Walk) -> Cost:
        # About a second of timing per row, and a few of memory; a teacher is exported, too.
        seconds = 15.0 + 4.0 * len(walk.teachers)
        source = walk.road.scored
        if source is not None:  # everyone answers it; a teacher twice, with its int8 file
            seconds += 2 * len(source) * sum(forward_seconds(teacher, walk.road.views) for teacher in walk.teachers)
            shown = len(walk.road.dataset.train) * walk.config.train.epochs
            forward = training_seconds(walk)[0] / shown / _STEP
            seconds += _STUDENTS * len(source) * forward
        return Cost(seconds)

    def run(self, walk: Walk) -> None:
        road, networks = walk.road, walk.networks
        student, side = networks["student"], walk.input
        name = walk.names.get("student", "student, distilled" if walk.teachers else walk.config.network.name)
        entries = [*walk.entries, self._network(walk, "student", name, side)]
        int8 = walk.folder / INT8
        if int8.is_file():  # else none was good enough, which a note says
            name = walk.names.get("int8", f"{'student' if walk.teachers else name}, int8 file")
            answer = file_answers(int8)
            entries.append(Entry("int8", name, "int8", side[0], answer, None, int8, "student" in walk.calibrated))
        few = getattr(walk.settings, "few_labels", 0)
        if "alone" in networks:
            labels = int(labelled(pupils(walk).dataset.train.targets).sum())  # fewer where there are not so many
            name = f"student, {labels} labels alone" if few else "student without a teacher"
            name += ", its stem new" * (walk.config.network.stem == "teacher")
            entries.append(self._network(walk, "alone", name, side))
        if "ceiling" in networks:
            name = "student, all labels" + ", its stem new" * (walk.config.network.stem == "teacher")
            entries.append(self._network(walk, "ceiling", name, side))
        entries += [self._network(walk, key, name, side) for key, name in walk.controls.items()]
        if "against" in networks:
            stats = input_stats(networks["against"])
            own = (stats.input_size, stats.mean, stats.std)
            entries.append(self._network(walk, "against", f"{walk.settings.against}, pretrained", own))
        entries += walk.beside
        with tempfile.TemporaryDirectory() as folder:
            entries += self._teachers_int8(walk, Path(folder))
            log.info("measure  %d models, one thread, in turns", len(entries))
            raw = Entry("", "", "", side[0], network_answers(networks["uncalibrated"], side, road.task))
            take_answers([*entries, raw], road)
            rows, walk.arrays = measure_rows(entries, road.task, source=road.scored, validation=point_source(road))
            for row in rows:  # an int8 file is the same network, stored with fewer bits
                if row["role"] in ("int8", "teacher-int8"):
                    same = find(rows, "student" if row["role"] == "int8" else row["key"].removesuffix("-int8"))
                    row |= {key: same.get(key) for key in ("parameters", "flops")}
            walk.rows = rows + walk.fold_rows + self._left_out(walk)
            keep(walk, entries)
        answered = next(entry.probabilities for entry in entries if entry.key == "student")
        walk.answered = answered
        after = answered if "student" in walk.calibrated else None
        walk.extra["reliability"] = reliability_report(raw.probabilities, after, road.scored, road.task)
        if walk.config.network.tokens >= 2 and len(walk.tutors) >= 2 and road.scored is not None:
            teachers = [entry for entry in walk.entries if entry.role == "teacher"]
            walk.extra["tokens"] = token_report(student, teachers, road, side)
            log.info("tokens   %s", walk.extra["tokens"]["words"])

    @staticmethod
    def _network(walk: Walk, key: str, name: str, side: Input) -> Entry:
        model = walk.networks[key].cpu()
        role = "other" if key in walk.controls else {"alone": "baseline"}.get(key, key)
        file = walk.folder / FP32 if key == "student" else None
        answer = network_answers(model, side, walk.road.task)
        shapes, student = ([weight.shape for weight in one.parameters()] for one in (model, walk.networks["student"]))
        again = key in ("alone", "ceiling") or key in walk.controls
        like = "student" if again and shapes == student else ""  # without teachers it may have another stem
        return Entry(key, name, role, side[0], answer, model, file, key in walk.calibrated, like=like)

    @staticmethod
    def _teachers_int8(walk: Walk, folder: Path) -> list[Entry]:
        """Each teacher as its own int8 file: what one would ship without a student."""
        road, entries = walk.road, []
        for entry, teacher in zip(walk.entries, walk.teachers, strict=False):
            if road.scored is None or count_parameters(teacher.module) > EXPORTED:
                continue
            fp32, int8 = folder / f"{entry.key}.onnx", folder / f"{entry.key}-int8.onnx"
            about = Preprocessing.of(road.view, (teacher.input_size, teacher.mean, teacher.std))
            try:
                module = road.task.in_our_classes(teacher)
                export_onnx(module, fp32, classes=road.dataset.classes, preprocessing=about, task=road.task)
                quantize_int8(fp32, int8)
            except PocketError as error:
                log.debug("no int8 file of %s: %s", teacher.name, error)
                continue
            entry.file = fp32  # which is timed, and need not be exported once more
            ms = measure_latency({"": int8}, image_size=entry.side, seconds=0.2)[""].p50
            fast = ms * len(road.scored) < 1000 * _PATIENCE
            note = "" if fast else "too slow to be scored on every image here: its costs alone"
            entries.append(
                Entry(f"{entry.key}-int8", f"{entry.name}, int8", "teacher-int8", entry.side,
                      file_answers(int8) if fast else None, None, int8, calibrated=False, note=note)
            )  # fmt: skip
        return entries

    @staticmethod
    def _left_out(walk: Walk) -> list[dict[str, Any]]:
        missing, settings = [], walk.settings
        if walk.teachers and "alone" not in walk.networks:
            why = "needs labels, and there are none" if settings.baseline else "left out with --no-baseline"
            missing.append(not_run("alone", "student without a teacher", "baseline", why))
        if walk.teachers and "against" not in walk.networks:
            asked = getattr(settings, "against", None)
            why = walk.extra.pop("against_failed", "what one might ship otherwise; asked for with --against NAME")
            missing.append(not_run("against", f"{asked or 'MobileNetV3-Small'}, pretrained", "against", why))
        return missing
