"""`pocketvit report RUN...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..rundir import Outcome, speak


def report(runs: Sequence[str | Path], *, out: str | None = None, no_images: bool = False) -> Outcome:
    """Write the HTML report of one run, or of several side by side, and the model card of each.

    Args:
        runs: run folders
        out: the HTML file to write; by default report.html in the (first) run folder
        no_images: leave every picture of the data out, for data that must not leave
    """
    from ..reporting.card import write_card
    from ..reporting.page import write_report

    speak()
    folders = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    page = write_report(folders if len(folders) > 1 else folders[0], out=out, images=not no_images)
    cards = [write_card(folder) for folder in folders if (folder / "student").is_dir()]
    text = "\n".join([f"report  {page}", *(f"card    {card}" for card in cards)])
    return Outcome(text, {"report": str(page), "cards": [str(card) for card in cards]})
