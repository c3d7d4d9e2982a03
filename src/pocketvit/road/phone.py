"""A run's student as phones take it: int8 with calibrated scales, one picture at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ..deployment.export import export_onnx
from ..deployment.package import write_device_zip
from ..deployment.parity import Parity, check_parity
from ..errors import NotSmaller, PocketError
from ..files import whole_folder
from ..rundir import Run
from ..settings import Export
from ..views import Views
from .reopen import reopen
from .rounding import Rounding, write_int8
from .ship import FP32, INT8, preprocessing_of

log = logging.getLogger("pocketvit")


def export_phone(settings: Export, folder: Path | None) -> tuple[Path, dict[str, Parity], str]:
    """Write ``model.onnx``, ``model-int8.onnx`` (QDQ) and ``device.zip``; return folder, parity and what int8 costs.

    Args:
        settings: Of `export`.
        folder: To write into; by default exported/NAME-phone.

    Raises:
        PocketError: The model is no run whose images are there: scales are calibrated on these.
    """
    path = Path(settings.model.folder if isinstance(settings.model, Run) else str(settings.model))
    if not (path / "config.yaml").is_file():
        raise PocketError(
            f"--target phone calibrates on the images of a run, and {path} is no run folder. Give one (`ls runs/`), or "
            "export with --target cpu, which needs no images."
        )
    source = reopen(path, settings.images)
    road = source.road(None)
    for note in source.notes:
        log.warning("warning  %s", note)
    folder = folder or Path("exported") / f"{path.resolve().name}-phone"
    about: dict[str, Any] = {
        "classes": road.dataset.classes,
        "preprocessing": preprocessing_of(road, source.input),
        "task": road.task,
    }
    model, how = source.student.module, Rounding("static", max_drop=settings.max_drop)
    scored = road.scored or road.dataset.train
    pixels = Views(scored, road.view.plain()).render(np.arange(min(64, len(scored))), 0).pixels
    with whole_folder(folder) as made:
        fp32, int8 = made / FP32, made / INT8
        export_onnx(model, fp32, fixed_batch=True, **about)
        try:
            kept = write_int8(model, fp32, int8, road, source.input, how)
        except NotSmaller as error:
            raise PocketError(f"{error} Give a larger --max-drop, or export with --target cpu.") from error
        checks = {file.name: check_parity(model, file, pixels) for file in (fp32, int8)}
        write_device_zip(made / "device.zip", int8)
    return folder, checks, kept
