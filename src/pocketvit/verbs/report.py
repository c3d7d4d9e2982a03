"""`pocketvit report RUN...`."""

from __future__ import annotations

from pathlib import Path

from ..rundir import Outcome, Run
from ..settings import Report, listed, verb


@verb(Report)
def report(settings: Report) -> Outcome:
    """Write the HTML report of one run, or of several side by side, and the model card of each."""
    from ..reporting.card import write_card
    from ..reporting.device import add_device
    from ..reporting.page import write_report

    folders = [run.folder if isinstance(run, Run) else Path(run) for run in listed(settings.runs)]
    if settings.device is not None and len(folders) > 1:
        raise settings.refused("device", "it is measured with a file of one run. Give that run alone")
    told = [f"device  {add_device(folders[0], Path(settings.device))}"] if settings.device is not None else []
    images = not settings.no_images
    page = write_report(folders if len(folders) > 1 else folders[0], out=settings.out, images=images)
    cards = [write_card(folder) for folder in folders if (folder / "student").is_dir()]
    text = "\n".join([*told, f"report  {page}", *(f"card    {card}" for card in cards)])
    return Outcome(text, {"report": str(page), "cards": [str(card) for card in cards]})
