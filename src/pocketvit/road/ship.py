"""The stage of files: the student calibrated, saved as timm reads it, exported, checked, packed for the device."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..deployment.export import export_onnx
from ..deployment.package import write_device_zip
from ..deployment.parity import check_parity
from ..errors import NotSmaller, PocketError
from ..models.saving import save_model
from ..training.step import Input
from ..views import Views
from ..views.preprocessing import Preprocessing
from .base import Cost, Stage, Walk
from .images import Road
from .rounding import USUAL, Rounding, write_int8
from .train import FOLLOWED, calibrate, follow_teachers

log = logging.getLogger("pocketvit")

FP32, INT8 = "model.onnx", "model-int8.onnx"


def preprocessing_of(road: Road, input: Input) -> Preprocessing:
    """What becomes of a picture before a network of this road sees it."""
    train = road.dataset.train
    tile = train.size[0] if train.parents is not None and train.size else None
    return Preprocessing.of(road.view, input, window=train.window, tile=tile)


def write_student(
    model: nn.Module,
    road: Road,
    folder: Path,
    input: Input,
    rounding: Rounding = USUAL,
    *,
    rounded: nn.Module | None = None,
) -> str:
    """Save a network as timm reads it, export it to fp32 and int8 ONNX, check both, and pack ``device.zip``.

    Where no int8 file is good enough, and nobody asked for one, the fp32 file is packed: a training is not lost for it.

    Args:
        model: The network.
        road: Its images.
        folder: Of the run.
        input: What it is fed.
        rounding: How it becomes an int8 file.
        rounded: The same network as it was trained with its rounding.

    Returns:
        How the int8 file keeps to the fp32 one, or why there is none, in words.

    Raises:
        PocketError: There is none, and it was asked for.
    """
    model = model.cpu().eval()
    about: dict[str, Any] = {
        "classes": road.dataset.classes,
        "preprocessing": preprocessing_of(road, input),
        "task": road.task,
    }
    save_model(model, folder / "student", **about)
    fp32, int8 = folder / FP32, folder / INT8
    export_onnx(model, fp32, **about)
    source = road.scored or road.dataset.train
    pixels = Views(source, road.view.plain()).render(np.arange(min(64, len(source))), 0).pixels
    log.info("export   %s: %s", FP32, check_parity(model, fp32, pixels).text())
    int8.unlink(missing_ok=True)  # of an earlier attempt
    try:
        kept = write_int8(model, fp32, int8, road, input, rounding, trained=rounded)
    except NotSmaller as error:
        if rounding.asked:
            raise PocketError(f"{error} {rounding.asked}") from error
        int8.unlink(missing_ok=True)
        log.warning("         no %s: %s device.zip has the fp32 file", INT8, error)
        write_device_zip(folder / "device.zip", fp32)
        return f"none, for {error} The fp32 file ships"
    log.info("         %s: %s", INT8, check_parity(model, int8, pixels).text())
    log.info("         %s: %s", INT8, kept)
    write_device_zip(folder / "device.zip", int8)
    return kept


def shipped(folder: Path) -> Path:
    """Return the file that ``device.zip`` of a run has: int8, or fp32 where no int8 file was good enough."""
    return folder / INT8 if (folder / INT8).is_file() else folder / FP32


class Ship(Stage):
    """The student's files."""

    name = "ship"
    reads = ("images", "student")
    writes = ("files",)
    everyone = False

    def cost(self, walk: Walk) -> Cost:
        return Cost(seconds=15.0)  # exports and checks, on any processor of these years

    def run(self, walk: Walk) -> None:
        student, road, side = walk.networks["student"], walk.road, walk.input
        walk.networks["uncalibrated"] = copy.deepcopy(student)  # for the reliability plot
        rounded = walk.networks.get("rounded")  # calibrated before its integers were fixed
        for key in ("student", "alone", "ceiling"):
            if rounded is not None and key == "student":
                continue
            if key in walk.networks and calibrate(walk.networks[key], road, side):
                walk.calibrated.add(key)
        if "student" not in walk.calibrated and follow_teachers(student, road, side, walk.tutors):
            walk.networks["uncalibrated"] = copy.deepcopy(student)
            looked_at = min(FOLLOWED, len(road.dataset.train))
            often = "" if road.dataset.synthetic else ", and names each class about as often,"
            walk.notes.append(
                "no labels were free to fit a temperature on: the student is as sure as its teachers are"
                f"{often} on {looked_at:,} of the images that it learned"
            )
        rounding = walk.rounding or USUAL
        kept = write_student(student, road, walk.folder, side, rounding, rounded=rounded)
        walk.notes.append(f"the int8 file: {kept}")
