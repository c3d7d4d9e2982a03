"""Rectangles on noise with their boxes, written as COCO, Pascal VOC and YOLO, as users have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

CLASSES = ("blob", "bar", "dot")
SPLITS = {"train": 8, "val": 3, "test": 3}


@dataclass
class Scene:
    """A picture and what is on it: (class, left, top, right, bottom)."""

    name: str
    split: str
    picture: Image.Image
    boxes: list[tuple[str, int, int, int, int]]


def scenes(counts: dict[str, int] | None = None, size: tuple[int, int] = (48, 40), seed: int = 0) -> list[Scene]:
    """Draw scenes of ``size`` (width, height); the first of each split shows nothing."""
    result = []
    generator = np.random.default_rng(seed)
    width, height = size
    for split, count in (counts or SPLITS).items():
        for number in range(count):
            picture = Image.fromarray(generator.integers(0, 80, (height, width, 3), dtype=np.uint8))
            boxes = []
            for label in CLASSES[: 1 + number % 3] if number else ():
                left, top = int(generator.integers(0, width - 14)), int(generator.integers(0, height - 14))
                right, bottom = left + int(generator.integers(6, 14)), top + int(generator.integers(6, 14))
                shade = (250, 60, 60) if label == "blob" else (60, 250, 60) if label == "bar" else (60, 60, 250)
                ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=shade)
                boxes.append((label, left, top, right, bottom))
            result.append(Scene(f"{split}{number:02}.png", split, picture, boxes))
    return result


def write_voc(folder: Path, drawn: list[Scene]) -> Path:
    """``Annotations``, ``JPEGImages``, ``ImageSets/Main``."""
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / place).mkdir(parents=True)
    for scene in drawn:
        scene.picture.save(folder / "JPEGImages" / scene.name)
        (folder / "Annotations" / scene.name).with_suffix(".xml").write_text(voc_document(scene))
    for split in {scene.split for scene in drawn}:
        stems = [scene.name.removesuffix(".png") for scene in drawn if scene.split == split]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return folder


def voc_document(scene: Scene) -> str:
    """The XML of a scene."""
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1 in scene.boxes
    )
    width, height = scene.picture.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{scene.name}</filename>{size}{objects}</annotation>"


def write_coco(folder: Path, drawn: list[Scene]) -> Path:
    """``annotations/instances_SPLIT.json`` and a folder of images per split."""
    (folder / "annotations").mkdir(parents=True)
    for split in {scene.split for scene in drawn}:
        (folder / split).mkdir()
        chosen = [scene for scene in drawn if scene.split == split]
        for scene in chosen:
            scene.picture.save(folder / split / scene.name)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco_document(chosen)))
    return folder


def coco_document(drawn: list[Scene]) -> dict:
    """COCO's dictionary of some scenes; ids of images and categories do not begin at 0."""
    order = sorted(CLASSES)
    images, notes = [], []
    for number, scene in enumerate(drawn):
        width, height = scene.picture.size
        images.append({"id": 10 + number, "file_name": scene.name, "width": width, "height": height})
        for label, x0, y0, x1, y1 in scene.boxes:
            notes.append(
                {
                    "id": len(notes),
                    "image_id": 10 + number,
                    "category_id": 5 + order.index(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 5 + number, "name": name} for number, name in enumerate(order)]
    return {"images": images, "annotations": notes, "categories": categories}


def write_yolo(folder: Path, drawn: list[Scene], order: Sequence[str] = tuple(sorted(CLASSES))) -> Path:
    """``data.yaml`` with names in this order, ``images/SPLIT`` and ``labels/SPLIT``."""
    for scene in drawn:
        image = folder / "images" / scene.split / scene.name
        labels = (folder / "labels" / scene.split / scene.name).with_suffix(".txt")
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        scene.picture.save(image)
        width, height = scene.picture.size
        lines = [
            f"{order.index(label)} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} "
            f"{(y1 - y0) / height}"
            for label, x0, y0, x1, y1 in scene.boxes
        ]
        labels.write_text("\n".join(lines))
    splits = {split: f"images/{split}" for split in {scene.split for scene in drawn}}
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": dict(enumerate(order)), **splits}))
    return folder


WRITERS = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}
