"""`pocketvit predict MODEL IMAGES`."""

from __future__ import annotations

from ..rundir import Outcome, Run
from ..settings import Predict, verb


@verb(Predict)
def predict(settings: Predict) -> Outcome:
    """Label images with a run, a student folder or an exported file.

    Where images have several labels, each with a probability of at least 50 % is named ("none" where there is none).
    Files that cannot be read are reported and the others go on; the exit code is then 1.
    """
    from ..deployment.predict import predict_images

    model = settings.model.folder if isinstance(settings.model, Run) else settings.model
    found = predict_images(model, settings.images, top=settings.top)
    lines = [
        f"{entry['file']}  could not be read: {entry['error']}"
        if "error" in entry
        else f"{entry['file']}  {entry['text']}"
        for entry in found
    ]
    broken = any("error" in entry for entry in found)
    return Outcome("\n".join(lines), {"predictions": found}, exit_code=1 if broken else 0)
