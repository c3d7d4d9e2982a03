"""What stands beside a teacher's labels, written once: of which images and views they are, by whom, and how made.

Three fingerprints say so (source, views, teacher); where two differ, `differences` names the part.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..errors import PocketError
from ..files import read_json, sha256_of
from .plan import LabelPlan
from .record import Record, record_kind
from .shard import FORMAT

MANIFEST = "manifest.json"
_PARTS = {"teacher": ("name", "outputs", "fingerprint"), "source": ("images", "fingerprint"), "views": ("fingerprint",)}
_LONG = 40  # longer values (hashes, lists) are shortened in messages


def new_manifest(source: Any, views: Any, teacher: Any, plan: LabelPlan, number: int) -> dict[str, Any]:
    """Describe labels that are about to be made by teacher ``number`` of a plan."""
    record = plan.records[number]
    more = record.more()
    return {
        "format": record.format,
        "kind": record.kind,
        "teacher": {"name": teacher.name, "outputs": record.num_classes, "fingerprint": teacher.fingerprint},
        "source": describe_source(source),
        "views": {"fingerprint": views.fingerprint},
        "k": record.k,
        "ordered": not views.config.mixes,
        **({"record": more} if more else {}),
        "batch": plan.batch,
        "rows_per_shard": plan.rows_per_shard,
        "environment": {"pocketvit": __version__, **environment(teacher.device.type)},
    }


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a manifest.

    Raises:
        PocketError: It is none, or a newer version wrote it.
    """
    manifest = read_json(path)
    problem = _problem(manifest)
    if problem:
        raise PocketError(
            f"{path} is not the manifest of a soft-label store ({problem}). Move its folder away; `label` makes the "
            "labels anew."
        )
    if manifest.get("format", 1) > FORMAT:
        raise PocketError(f"{path} was written by a newer pocketvit (format {manifest['format']}): update.")
    return manifest


def _problem(manifest: Any) -> str:
    """Say what is wrong with the form of a manifest, "" where nothing is."""
    if not isinstance(manifest, dict):
        return f"it holds a {type(manifest).__name__}"
    for part, names in _PARTS.items():
        held = manifest.get(part)
        missing = [name for name in names if not isinstance(held, dict) or name not in held]
        if missing:
            return f"it says nothing of {part} {missing[0]}"
    least = {"k": 0, "batch": 1, "rows_per_shard": 1}
    counts = {name: (manifest.get(name), low) for name, low in least.items()}
    counts["teacher outputs"] = manifest["teacher"]["outputs"], 1
    counts["source images"] = manifest["source"]["images"], 1
    counts["format"] = manifest.get("format", 1), 1
    for name, (value, low) in counts.items():
        if type(value) is not int or value < low:
            return f"its {name} is {value!r}"
    if not isinstance(manifest.get("ordered"), bool):
        return f"its ordered is {manifest.get('ordered')!r}"
    for name, wanted in (("kind", str), ("record", dict)):
        if name in manifest and not isinstance(manifest[name], wanted):
            return f"its {name} is {manifest[name]!r}"
    return ""


def manifest_record(manifest: dict[str, Any]) -> Record:
    """Return what a record of these labels is made of.

    Raises:
        PocketError: There are no records of this kind, or none that are made of this.
    """
    kind, more = record_kind(manifest.get("kind", "softmax")), manifest.get("record", {})
    try:
        return kind(manifest["teacher"]["outputs"], manifest["k"], **more)
    except (TypeError, ValueError):
        raise PocketError(
            f"a manifest of soft labels describes its records as {more!r}, which those of the kind {kind.kind!r} are "
            "not made of. Move the folder of the labels away; `label` makes them anew."
        ) from None


def describe_source(source: Any) -> dict[str, Any]:
    """What identifies the images of a store: content, ids and split in one hash, and words for messages."""
    return {
        "name": source.name,
        "split": source.split,
        "images": len(source),
        "classes": len(source.classes),
        "fingerprint": source.fingerprint,
    }


def environment(device: str) -> dict[str, str]:
    """Library versions and device: they may change values within tolerance, so that they only warn."""
    return {"torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(), "device": device}


def check_same_images(folder: Path, manifest: dict[str, Any], source: Any, views: Any) -> None:
    """Raise ``PocketError`` when a manifest is of other images or other views than these (None: not checked)."""
    if source is not None:
        there, here = manifest["source"], describe_source(source)
        if there["fingerprint"] != here["fingerprint"]:
            found = differences(_named_parts(there), _named_parts(here))
            raise PocketError(
                f"the labels in {folder} were made for other images: source differs "
                f"({'; '.join(found) or 'same name and number of images, but other content, ids or split'}). Use the "
                "images that were labelled, or label these into another folder."
            )
    if views is not None:
        found = differences(manifest["views"]["fingerprint"], views.fingerprint)
        if found:
            raise PocketError(
                f"the labels in {folder} were made for other views: view config differs ({'; '.join(found)}). Use the "
                "same view options and seed as for `label`, or label again into another folder."
            )


def check_teachers_agree(folder: Path, manifests: dict[str, dict[str, Any]]) -> None:
    """Raise ``PocketError`` when the teachers of a store labelled different images or views."""
    (first, one), *others = manifests.items()
    for key, other in others:
        for part, things in (("source", "images"), ("views", "views")):
            found = differences(_identity(one[part]), _identity(other[part]))
            if found:
                raise PocketError(
                    f"{first} and {key} in {folder} labelled different {things} ({'; '.join(found)}; the "
                    f"former is {first}'s). Keep them in two stores."
                )


def digest(fingerprint: Any) -> str:
    """Hex SHA-256 of a fingerprint: as it is when it is a hash already, else of its JSON."""
    return fingerprint if isinstance(fingerprint, str) else sha256_of(fingerprint)


def differences(there: Any, here: Any, prefix: str = "") -> list[str]:
    """Name the fields in which two fingerprints differ: ``["crop: 'padded' there, 'none' here"]``."""
    if isinstance(there, dict) and isinstance(here, dict):
        found = []
        for name in sorted(there.keys() | here.keys()):
            found += differences(there.get(name), here.get(name), f"{prefix}.{name}" if prefix else name)
        return found
    if _plain(there) == _plain(here):
        return []
    return [f"{prefix or 'it'}: {_short(there)} there, {_short(here)} here"]


def _identity(part: dict[str, Any]) -> dict[str, Any]:
    fingerprint = part["fingerprint"]
    return fingerprint if isinstance(fingerprint, dict) else part


def _named_parts(source: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name != "fingerprint"}


def _plain(value: Any) -> Any:
    """A value as JSON gives it back (tuples become lists)."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    if value is None:
        return "the default"
    text = repr(value)
    return text if len(text) <= _LONG else f"{text[:12]}..."
