"""A small detector of blood cells without one image of blood: learned from drawn pictures and a teacher's boxes.

Shows   the detector of `detection_blood_cells`, learned from its teacher's boxes alone at equal steps: on the real
        training images (the ceiling), on drawn pictures that the teacher chose, on these optimized for layouts of
        boxes, on crops of one photograph of something else, on noise.
Paper   What Makes a Good Dataset for Knowledge Distillation? (arXiv 2411.12817), for classifiers; no published figure
        is known for small ViT detectors that see no image.
Data    BCCD, as in `detection_blood_cells`.
Cost    about three hours of one processor core; --small: about 15 minutes, too few steps to find a cell.
Command pocketvit run recipes/detection_datafree.py --images bccd_voc
Result  recipes/detection_datafree.md
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from detection_blood_cells import TEACHER, VIEW, config, judged, kept, table

from pocketvit.config import RunConfig, TermConfig
from pocketvit.files import write_text
from pocketvit.road.answering import network_answers, teacher_answers
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.road.train import train_network
from pocketvit.sources.unlabelled import unlabelled_as
from pocketvit.synthesis import (
    Bank,
    DrawnConfig,
    InversionConfig,
    Noise,
    draw_bank,
    invert_bank,
    sample_photograph,
)
from pocketvit.teachers import Teacher
from pocketvit.views.synthetic import hard_views

TIMES = 4  # pictures of a bank that is chosen, over the real images: each is seen in as many fewer views
ARMS = {
    "real": "real images, teacher's boxes (the ceiling)",
    "drawn": "drawn pictures, chosen by the teacher",
    "inverted": "drawn, chosen, and optimized for layouts of boxes",
    "photograph": "crops of one photograph",
    "noise": "noise",
    "drawn-matched": "drawn pictures, by the teacher's features, too",
    "inverted-matched": "optimized for layouts of boxes, by the teacher's features, too",
    "real-matched": "real images, by the teacher's features, too",
}


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the teacher; for each arm store its boxes and train a student; judge all on real images at the end."""
    chosen = config(small)
    shared = folder.parent / "shared"
    whole = open_road(images or "bccd_voc", VIEW, shared)
    # Nothing is chosen on the validation images: the last weights count.
    real = dataclasses.replace(whole, dataset=dataclasses.replace(whole.dataset, val=None, test=None))
    if small:
        real = real.reduced(48)
    teacher = train_teacher(real, TEACHER, chosen.train, input_size=VIEW.view_size)
    results = {"teacher": kept(folder / "teacher.json", lambda: judged(teacher_answers(teacher, real.task), whole))}
    for key in ARMS:
        road, arm = real.with_few_labels(0), chosen
        images = key.removesuffix("-matched")
        if images != key:
            labels = dataclasses.replace(arm.labels, store_features="4GB")
            terms = (TermConfig("fitnets"),)
            arm = dataclasses.replace(arm, labels=labels, loss=dataclasses.replace(arm.loss, terms=terms))
        if images != "real":
            bank = bank_of(images, len(real.dataset.train), teacher, folder / "banks")
            road, arm = without_images(real, bank, shared), equal_steps(arm, len(real.dataset.train), len(bank))
        store = label_road(road, [teacher], arm.labels)
        model = train_network(road, arm, folder / key, teachers=[teacher], store=store)
        answer = network_answers(model, road.input, road.task)
        results[key] = kept(folder / key / "result.json", lambda answer=answer: judged(answer, whole))
    text = table(results, real, ARMS)
    write_text(folder / "table.md", text + "\n")
    return text


def bank_of(images: str, real: int, teacher: Teacher, banks: Path) -> Bank:
    """Make pictures, or open them: as many as are ``real`` where they are optimized, else `TIMES` as many."""
    count, place = TIMES * real, banks / images
    if images == "noise":
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=1), candidates=Noise(0, teacher.input_size))
    if images == "photograph":
        crops = sample_photograph(0, teacher.input_size)
        return draw_bank(place, teacher, DrawnConfig(count, looked_at=2), candidates=crops)
    if images == "inverted":
        start = bank_of("drawn", real, teacher, banks)
        return invert_bank(place, teacher, InversionConfig.of_boxes(real), start=start)
    return draw_bank(place, teacher, DrawnConfig(count, looked_at=4))


def without_images(real: Road, bank: Bank, shared: Path) -> Road:
    """A bank's pictures in place of the training images, as the command shows them."""
    made = unlabelled_as(bank.dataset(), real.task.name, len(real.dataset.classes))
    view = real.task.view(hard_views(VIEW.view_size))
    return open_road(dataclasses.replace(made, classes=real.dataset.classes), view, shared)


def equal_steps(arm: RunConfig, real: int, made: int) -> RunConfig:
    """As many steps over ``made`` pictures as over ``real`` ones."""
    epochs = max(1, round(arm.train.epochs * real / made))
    return dataclasses.replace(
        arm,
        labels=dataclasses.replace(arm.labels, views=min(arm.labels.views, epochs)),
        train=dataclasses.replace(arm.train, epochs=epochs),
    )
