"""`pocketvit label IMAGES --teacher NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..rundir import Outcome, speak

if TYPE_CHECKING:
    from torch import nn

    from ..sources import Dataset
    from ..teachers import Teacher


def label(
    images: str | Path | Dataset,
    *,
    teacher: str | nn.Module | Teacher | Sequence[str | nn.Module | Teacher] | None = None,
    views: int = 10,
    plan: bool = False,
    verify: bool = False,
    store: str | None = None,
    size: int | None = None,
    augment: Literal["none", "light", "medium", "strong"] = "medium",
    flip: bool | None = None,
    vertical_flip: bool | None = None,
    modality: str | None = None,
    resample: Literal["lanczos", "bicubic", "bilinear", "nearest"] = "lanczos",
    aspect: Literal["crop", "pad", "stretch"] = "crop",
    labels: str | None = None,
    group: str | None = None,
    tile: int | None = None,
    window: str | None = None,
    arch: str | None = None,
    weights: str | None = None,
    input: int | None = None,
    norm: str | None = None,
    fine_tune: bool = False,
    freeze: bool = False,
    top_k: int | None = None,
    device: str | None = None,
    out: str = "runs",
) -> Outcome:
    """Let teachers label every view of the training images, once, into a soft-label store.

    More views and more teachers only add files. `distill` with the same images, views and teachers finds the store
    under OUT/shared/labels by itself.

    Args:
        images: "digits", a folder, a .npz or .csv file
        teacher: timm name, hf-hub:NAME, local-dir:FOLDER, a weights file (with --arch), MODULE:FUNCTION; repeat for
            several
        views: augmented views an image
        plan: print bytes and time, and write nothing
        verify: recompute 256 random records with the live teacher and compare
        store: the store's folder; by default under OUT/shared/labels
        size: side of the views in pixels
        augment: how much views vary
        flip: mirrored views; by default unless the kind of images forbids it (switch off where left and right matter,
            as in digits)
        vertical_flip: upside-down views; by default only where the kind of images has no up and down
        modality: kind of images, which decides what augmentation leaves their label alone: photo, xray, ct, ultrasound,
            oct, fundus, microscopy, histology, dermatoscopy; by default that of a known MedMNIST file, else photo
        resample: how images are brought to the view's size
        aspect: how other shapes become square: the middle cut out, black borders, or stretched
        labels: CSV file of file names and labels of the images in a folder
        group: column of that file, as patient, whose images stay on one side of every split
        tile: cut large images into squares of this many pixels; figures are per image
        window: intensities LOW,HIGH that become black and white in images that are not 8-bit
        arch: architecture of a weights file named as teacher
        weights: weights file for an architecture or MODULE:FUNCTION named as teacher
        input: side in pixels of what the teacher sees, where its file does not say
        norm: normalization of the teacher where its file does not say: imagenet, half or none
        fine_tune: fine-tune a teacher that has other classes, however long that takes
        freeze: only train a linear probe on such a teacher
        top_k: logits stored a record; by default all up to 256 classes, then 100; 0 is all
        device: cpu or cuda
        out: the folder of runs
    """
    from ..config import RunConfig
    from ..errors import PocketError
    from ..labels import LabelStore
    from ..labels import verify as verify_labels
    from ..sources import open_images
    from . import defaults
    from .options import check_device, check_images, check_numbers, parse_window
    from .planning import plan_store
    from .several import check_several
    from .stages import label_road, open_road, store_folder
    from .teach import load_teachers, ready_teachers, teacher_config

    speak()
    check_device(device)
    check_numbers(views=views, input=input)
    teachers, specs = teacher_config(teacher, arch, weights, input, norm)
    if not specs:
        raise PocketError("name the teacher whose labels are to be stored: `pocketvit label IMAGES --teacher NAME`.")
    check_images(images)
    specs = load_teachers(teachers, specs, "cpu")  # a mistyped one is told before the images are read
    dataset = open_images(images, labels=labels, window=parse_window(window), group=group, tile=tile)
    check_several(dataset, top_k=top_k)
    view = defaults.view_config(
        dataset,
        size=size,
        augment=augment,
        flip=flip,
        vertical_flip=vertical_flip,
        resample=resample,
        aspect=aspect,
        modality=modality,
    )
    config = RunConfig(
        images=dataset.name,
        teachers=teachers,
        views=views,
        top_k=top_k,
        view=view,
        fine_tune=True if fine_tune else False if freeze else None,
    )
    if plan:
        planned = plan_store(dataset, config, specs, device or "cpu")
        return Outcome(planned.text(), {"bytes": planned.bytes, "seconds": planned.seconds, "images": planned.images})
    road = open_road(config, Path(out) / "shared", images=dataset, device=device)
    ready = ready_teachers(road, config, specs)
    folder = Path(store) if store else store_folder(road, config)
    if verify:
        found = verify_labels(LabelStore(folder), road.dataset.train, road.views, ready)
        return Outcome(
            "\n".join(one.text() for one in found), {"store": str(folder), "verified": list(map(asdict, found))}
        )
    written = label_road(road, ready, config, folder=folder)
    held = {key: written.views(key) for key in written.teachers()}
    lines = [f"{key}: {len(complete)} complete views" for key, complete in held.items()]
    return Outcome("\n".join([*lines, f"store   {folder}"]), {"store": str(folder), "teachers": held})
