"""`pocketvit predict MODEL IMAGES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..rundir import Outcome, Run
from ..settings import Predict, listed, verb


@verb(Predict)
def predict(settings: Predict) -> Outcome:
    """Label images with a run, a student folder or an exported file.

    Where images have several labels, each with a probability of at least 50 % is named ("none" where there is none).
    Files that cannot be read are reported and the others go on; the exit code is then 1.
    """
    from ..deployment.predict import predict_images

    model: Any = settings.model.folder if isinstance(settings.model, Run) else settings.model
    window: Any = settings.window
    save = Path(settings.save) if settings.save else None
    found = predict_images(model, listed(settings.images), window=window, top=settings.top, save=save)
    broken = any(one.answer is None for one in found)
    data = {"predictions": [one.data for one in found]}
    told = [*map(str, found), *([f"drawn   {save}"] if save else [])]
    return Outcome("\n".join(told), data, exit_code=1 if broken else 0)
