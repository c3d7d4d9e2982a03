"""The model card: a README.md for the student's folder, as the Hugging Face hub and GitHub show it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..deployment.package import script
from ..files import read_json, write_text
from ..views.preprocessing import Preprocessing
from . import words
from .results import Results, load_results
from .table import Table
from .text import escape_markdown

_PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense")
# What the code on the card imports besides, and how it reads the outputs.
_READ = {
    "softmax": ("", "probabilities = model(pixels).softmax(1).mean(0)  # over tiles, where pictures are cut into any"),
    "sigmoid": ("", "probabilities = model(pixels).sigmoid().mean(0)  # over tiles, where pictures are cut into any"),
    "boxes": (
        "from boxes import best_boxes, placed  # beside this card: numpy",
        "found = best_boxes(model(pixels)[0].numpy())  # [K, 6]: left, top, right, bottom (shares), score, class",
    ),
}
_UNKNOWN = "unknown: check it before you publish"


def write_card(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the model card of a run, and ``preprocessing.py``, which its code imports; return the card's path.

    Args:
        folder: a run folder with ``results.json`` and, for how to load the student, ``student/config.json``.
        out: the file to write (default: ``student/README.md`` in the run folder).

    Raises:
        PocketError: the folder is no finished run, or the card cannot be written.
    """
    results = load_results(folder)
    out = Path(out) if out is not None else Path(folder) / "student" / "README.md"
    config_path = Path(folder) / "student" / "config.json"
    config = read_json(config_path) if config_path.is_file() else {}
    config = config if isinstance(config, dict) else {}
    own = config.get("pocketvit")
    own = own if isinstance(own, dict) else {}
    about = Preprocessing.from_dict(own["preprocessing"]) if "preprocessing" in own else None
    teachers = _teachers(results)
    environment = Environment(
        loader=PackageLoader("pocketvit.reporting", "templates"),
        autoescape=False,  # markdown: every value below goes through escape_markdown or into a code block
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["code"] = _code
    text = environment.get_template("card.md").render(
        front=yaml.safe_dump(_front_matter(results, teachers), sort_keys=False, allow_unicode=True).strip(),
        results=results,
        headline=words.headline(results),
        research=words.RESEARCH,
        differences=words.differences(results),
        created=words.moment(results.created),
        table=Table.of(results).markdown(),
        missing=words.not_measured(results),
        teachers=teachers,
        config=config,
        about=about,
        more=_READ[results.task.kind][0],
        reading=_READ[results.task.kind][1],
        needs_pocketvit=bool(own.get("needs_pocketvit")),
    )
    write_text(out, text)
    if about is not None:
        write_text(config_path.parent / "preprocessing.py", script("preprocessing.py"))
        if _READ[results.task.kind][0]:
            write_text(config_path.parent / "boxes.py", script("boxes.py"))
    return out


def _teachers(results: Results) -> list[dict[str, str]]:
    """Return name, source and licence of each teacher, from the run's list of them or else from the table's rows."""
    known: list[dict[str, Any]] = [dict(teacher) for teacher in results.teachers]
    known = known or [{"name": row.name, "licence": row.licence} for row in results.teacher_rows]
    return [
        {
            "name": str(teacher.get("name") or "teacher"),
            "source": str(teacher.get("source") or ""),
            "licence": str(teacher.get("licence") or teacher.get("license") or _UNKNOWN),
        }
        for teacher in known
    ]


def _front_matter(results: Results, teachers: list[dict[str, str]]) -> dict[str, Any]:
    """Return what the hub reads: tags, licence, base models, and the figures of the file that ships.

    A student inherits the obligations of its teachers and its data. Its licence is named only where all teachers share
    one permissive licence; otherwise it is "other", for the owner to settle.
    """
    licences = {teacher["licence"].lower() for teacher in teachers}
    shared = licences.pop() if len(licences) == 1 else ""
    front: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": results.task.hub,
        "tags": [results.task.hub, "timm", "pocketvit", "knowledge-distillation"],
        "license": shared if shared in _PERMISSIVE else "other",
    }
    hub = [teacher["source"].removeprefix("hf-hub:") for teacher in teachers if teacher["source"].startswith("hf-hub:")]
    if hub:
        front["base_model"] = hub
    row = results.student or results.shipped
    metric = None if row is None else ("mAP", row.map) if row.map is not None else ("accuracy", row.accuracy)
    if metric is not None and metric[1] is not None:
        name = _harmless(str(results.dataset.get("name") or "images"))
        front["model-index"] = [
            {
                "name": _harmless(results.title),
                "results": [
                    {
                        "task": {"type": results.task.hub},
                        "dataset": {"name": name, "type": name, "split": results.scored_on},
                        "metrics": [{"type": metric[0], "value": round(metric[1], 5)}],
                    }
                ],
            }
        ]
    return front


def _code(text: str) -> str:
    """Make text harmless inside a fenced block: it cannot close the fence."""
    return _harmless(" ".join(str(text).split()).replace("```", "'''"))


def _harmless(text: str) -> str:
    """Make text no markup, wherever a viewer of the card may put it: what looks like a tag gets other brackets."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "‹", text)
