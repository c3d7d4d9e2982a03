"""The files of what a run's verdict would ship in its student's place: advice that leaves nothing to ship is none."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..deployment.package import write_device_zip
from ..errors import PocketError
from ..models.inputs import input_stats
from ..reporting.verdict import verdict
from ..sources.tiles import whole
from .base import Walk
from .ship import FP32, INT8, write_student

if TYPE_CHECKING:
    from .measuring import Entry

log = logging.getLogger("pocketvit")

FOLDER = "instead"  # of the run


def keep(walk: Walk, entries: Sequence[Entry]) -> None:
    """Write what the verdict over ``walk.rows`` would ship in the student's place, and name its file in its row.

    A teacher's file is the very one that was measured; the student without a teacher and a network that was fine-tuned
    beside it are exported and checked as the student was. What cannot be written has no file in its row.

    Args:
        entries: Of the rows, with the teachers' files still there.
    """
    folder, source = walk.folder / FOLDER, walk.road.scored
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier verdict
    chance = None if source is None else walk.road.task.chance(whole(source).targets)
    found = verdict(walk.rows, walk.road.task, chance)
    entry = next((one for one in entries if found is not None and one.key == found.ship), None)
    if entry is None or entry.role in ("student", "model", "int8") or entry.extra.get("file"):
        return
    folder.mkdir()
    try:
        if entry.file is not None:
            file = folder / (INT8 if entry.role == "teacher-int8" else FP32)
            shutil.copyfile(entry.file, file)
            write_device_zip(folder / "device.zip", file)
        elif entry.key in walk.networks:
            log.info("instead  %s, which the verdict would ship", entry.name)
            model = walk.networks[entry.key]
            stats = input_stats(model)
            own = (stats.input_size, stats.mean, stats.std)
            write_student(model, walk.road, folder, own if entry.role == "against" else walk.input)
    except PocketError as error:
        log.warning("warning  no file of %s: %s", entry.name, error)
    if (folder / "device.zip").is_file():
        next(row for row in walk.rows if row["key"] == entry.key)["file"] = f"{FOLDER}/device.zip"
    else:
        shutil.rmtree(folder)
