"""Photographs that nobody may show: a small ViT from a published network of a thousand classes, five of them the task.

Shows   what a ViT of a million parameters learns of five kinds of photographs when none of them is at hand: from drawn
        pictures that MobileNetV2 chose, from these optimized for it, from one photograph of something else, from noise;
        what 1, 10 and 100 photographs of the task add; beside all 800, the ceiling, at equal steps. None sees a label.
Paper   What Makes a Good Dataset for Knowledge Distillation? (arXiv 2411.12817); DeepInversion (arXiv 1912.08795).
Data    a folder with the photographs as photos/train/CLASS and photos/test/CLASS, and the teacher as mobilenet_v2, a
        model folder of timm's.
Cost    about three hours of one processor core; --small: a sixteenth of the images.
Command pocketvit run recipes/datafree_photos.py --images data/
Result  recipes/datafree_photos.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from datafree_cnn import Kind, run_kinds

from pocketvit.config import Stem, ViewConfig
from pocketvit.errors import PocketError
from pocketvit.road.images import open_road
from pocketvit.sources import Dataset, open_images
from pocketvit.synthesis.methods import Request, make_bank
from pocketvit.teachers import load_teacher
from pocketvit.views.synthetic import hard_views

SIDE, SEEN = 128, 96  # of the pictures, as the teacher sees them; of the views
VIEWS = 48_000  # that a student sees
VIEW = ViewConfig(view_size=SEEN, crop="random_resized", crop_scale=(0.25, 1.0), flip=0.5, color_jitter=0.3)
HARD = hard_views(SEEN)


def _kind(
    name: str, images: str, count: int = 6_000, view: ViewConfig = HARD, stem: Stem = "conv", *, matched: float = 0.0
) -> Kind:
    schedule: Literal["cosine", "wsd"] = "wsd" if matched else "cosine"
    return Kind(
        name, images, count, view, student="pocket_s", views=VIEWS, stem=stem, matched=matched, schedule=schedule
    )


def _matched(name: str, images: str, view: ViewConfig = HARD, weight: float = 3.0) -> Kind:
    """As a run has it unasked."""
    return _kind(f"its first layers and its last features: {name}", images, view=view, stem="teacher", matched=weight)


ARMS = {
    "real": _kind("all 800 photographs (the ceiling)", "real", view=VIEW),
    "drawn": _kind("drawn, chosen by the teacher", "drawn"),
    "real-stem": _kind("the teacher's first layers as stem: all 800 photographs", "real", view=VIEW, stem="teacher"),
    "drawn-stem": _kind("the teacher's first layers as stem: drawn", "drawn", stem="teacher"),
    "few-10-stem": _kind("the teacher's first layers as stem: drawn, and 10 photographs", "10", stem="teacher"),
    "few-100-stem": _kind("the teacher's first layers as stem: drawn, and 100 photographs", "100", stem="teacher"),
    "real-matched": _matched("all 800 photographs", "real", VIEW),
    "drawn-matched": _matched("drawn", "drawn"),
    "few-10-matched": _matched("drawn, and 10 photographs, features as heavy as answers", "10", weight=1.0),
    "few-10-matched-3": _matched("drawn, and 10 photographs", "10"),
    "few-100-matched": _matched("drawn, and 100 photographs", "100"),
    "few-1": _kind("drawn, and 1 photograph", "1"),
    "few-10": _kind("drawn, and 10 photographs", "10"),
    "few-100": _kind("drawn, and 100 photographs", "100"),
    "inverted": _kind("inverted, starting from drawn ones", "inverted", count=600),
    "photograph": _kind("one photograph of something else", "photograph"),
    "noise": _kind("noise", "noise"),
}


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(ARMS), seeds: int = 1) -> str:
    """Every arm at equal steps."""
    place = Path(images or "data")
    if not (place / "photos").is_dir() or not (place / "mobilenet_v2").is_dir():
        raise PocketError(f"{place} should hold photos/ and mobilenet_v2/: see the recipe's text.")
    dataset = open_images(place / "photos", val_fraction=0)  # nothing is chosen on validation images
    real = open_road(dataset, VIEW, folder.parent / "shared")
    published = load_teacher(f"local-dir:{place / 'mobilenet_v2'}", input_size=SIDE)
    teacher = real.task.aligned(published, dataset)
    if teacher is None:
        raise PocketError(f"{published.name} does not know the classes {', '.join(dataset.classes)} by name.")

    def pictures(kind: Kind, count: int) -> Dataset:
        few = real.reduced(int(kind.images)).dataset.train if kind.images.isdecimal() else None
        request = Request("drawn" if few is not None else kind.images, count, data=few)
        return make_bank(folder / "banks" / f"{kind.images}-{count}", teacher, request).dataset()

    kinds = {key: ARMS[key] for key in only}
    return run_kinds(real, teacher, kinds, pictures, folder, small=small, seeds=seeds, title=__doc__ or "")
