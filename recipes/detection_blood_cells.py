"""A small detector of blood cells: from true boxes, from a teacher's stored boxes, from these alone, from two teachers.

Shows   the same detector (a ViT of a million parameters, a simple feature pyramid, FCOS's head) trained on true boxes,
        on a teacher's boxes and true ones, and on the teacher's boxes without one true box; likewise on those of two
        teachers, fused or each by itself (the second one is the student that learned true boxes alone); and the same
        ViT with the decoder of LW-DETR, with and without the teacher.
Paper   Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022; Tian et al., "FCOS",
        ICCV 2019. Learning a teacher's boxes as soft pseudo-labels: Xu et al., "Soft Teacher", ICCV 2021. Fusing those
        of several: Solovyev et al., "Weighted boxes fusion", 2021.
Data    BCCD (github.com/Shenggan/BCCD_Dataset, MIT): 364 photographs of blood smears as Pascal VOC, its own lists:
        train 205, val 87, test 72. Its labels are known to miss cells, so look at the classes.
Cost    about three hours of one processor core; --small: about 10 minutes.
Command pocketvit run recipes/detection_blood_cells.py --images bccd_voc
Result  recipes/detection_blood_cells.md
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.files import read_json, write_json, write_text
from pocketvit.metrics.detection import rounded
from pocketvit.road.answering import Answers, network_answers, road_answers, teacher_answers
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import as_teacher, train_teacher
from pocketvit.road.train import train_network
from pocketvit.rundir import machine
from pocketvit.teachers import Teacher

TEACHER = "pocket_m"
VIEW = ViewConfig(view_size=224, fit="pad", crop="zoom", flip=0.5, vertical_flip=0.5, color_jitter=0.2)
BOTH = "both teachers fused"
ARMS = {
    "alone": "student, true boxes only",
    "labels": "student, teacher's boxes and true ones",
    "unlabelled": "student, teacher's boxes only",
    "fused": "student, two teachers' boxes fused and true ones",
    "apart": "student, two teachers' boxes each by itself and true ones",
    "fused-unlabelled": "student, two teachers' boxes fused, only",
    "detr": "student with LW-DETR's decoder, true boxes only",
    "set": "student, boxes of the one with LW-DETR's decoder and true ones",
    "set-unlabelled": "student, boxes of the one with LW-DETR's decoder only",
    "detr-labels": "student with LW-DETR's decoder, teacher's boxes and true ones",
}


def config(small: bool = False) -> RunConfig:
    """The student of every arm, and how long it and the teacher learn: 16 epochs of 205 images in batches of 8."""
    epochs = 2 if small else 16
    return RunConfig(
        network=NetworkConfig("pocket_s", stem="hybrid"),
        labels=LabelConfig(views=epochs),
        view=VIEW,
        loss=LossConfig(objective="boxes", weight=0.5),
        train=TrainConfig(epochs=epochs, batch_size=8, optimizer="muon", learning_rate=2e-3, precision="fp32"),
    )


def judged(answer: Answers, road: Road) -> dict[str, Any]:
    """The figures of a detector on the validation and on the test split."""
    found = {}
    for split in ("val", "test"):
        source = road.dataset.splits[split]
        given = road_answers({"": answer}, road, source)[""]
        found[split] = road.task.judge(given, source.targets, source.classes).fields()
    return found


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train the teacher, store its boxes for four views of each image, train the students; judge all at the end."""
    chosen = config(small)
    whole = open_road(images or "bccd_voc", VIEW, folder.parent / "shared")
    # Nothing is chosen on the validation images: the last weights count.
    road = dataclasses.replace(whole, dataset=dataclasses.replace(whole.dataset, val=None, test=None))
    if small:
        road = road.reduced(48)
    teacher = train_teacher(road, TEACHER, chosen.train, input_size=VIEW.view_size)
    results = {"teacher": kept(folder / "teacher.json", lambda: judged(teacher_answers(teacher, road.task), whole))}
    teachers, sets = [teacher], list[Teacher]()
    for key in ARMS:
        arm, seen = chosen, road
        if key.startswith("detr"):
            arm = dataclasses.replace(arm, network=dataclasses.replace(chosen.network, detector="detr"))
        if key in ("alone", "detr"):
            arm = dataclasses.replace(arm, loss=LossConfig(weight=0.0))
        if key.startswith("apart"):
            arm = dataclasses.replace(arm, loss=dataclasses.replace(chosen.loss, objective="apart"))
        if key.endswith("unlabelled"):
            seen = road.with_few_labels(0)
        mine = sets if key.startswith("set") else teachers if key.startswith(("fused", "apart")) else teachers[:1]
        taught: dict[str, Any] = {}
        if key not in ("alone", "detr"):
            taught = {"teachers": mine, "store": label_road(road, mine, chosen.labels)}
        model = train_network(seen, arm, folder / key, **taught)
        answer = network_answers(model, road.input, road.task)
        results[key] = kept(folder / key / "result.json", lambda answer=answer: judged(answer, whole))
        if key == "detr":
            sets.append(as_teacher(model, road, road.input, "set", "the student with LW-DETR's decoder"))
        if key == "alone":
            teachers.append(as_teacher(model, road, road.input, "twin", "the student, trained on your boxes"))
            both = fused_answers(teachers, road)
            results["both"] = kept(folder / "both.json", lambda both=both: judged(both, whole))
    text = table(results, road)
    write_text(folder / "table.md", text + "\n")
    return text


def fused_answers(teachers: Sequence[Teacher], road: Road) -> Answers:
    """What several teachers say together."""
    each = [teacher_answers(teacher, road.task) for teacher in teachers]
    return lambda pixels: road.task.merged([answer(pixels) for answer in each])


def kept(path: Path, make: Any) -> Any:
    """Return what ``make`` returns, made once and then read from a JSON file."""
    if not path.is_file():
        write_json(path, make())
    return read_json(path)


def table(results: dict[str, Any], road: Road, arms: dict[str, str] = ARMS) -> str:
    """Return the figures in Markdown, mAP with its 95 % interval over images."""
    classes = road.dataset.classes
    head = ["", "val mAP", "val AP50", "test mAP", "95 % interval", "test AP50", *(f"{name} mAP" for name in classes)]
    lines = [head, ["---"] * len(head)]
    rows = {"teacher": f"teacher ({TEACHER}), true boxes", "both": BOTH, **arms}
    for key, name in ((key, name) for key, name in rows.items() if key in results):
        val, test = results[key]["val"], results[key]["test"]
        low, high = test["map_interval"] or (None, None)
        cells = [rounded(value) for value in (val["map"], val["map_50"], test["map"])]
        by_class = [rounded(test["by_class"][one]) for one in classes]
        lines.append([name, *cells, f"{rounded(low)} to {rounded(high)}", rounded(test["map_50"]), *by_class])
    n, boxes = results["teacher"]["test"]["n"], results["teacher"]["test"]["boxes"]
    here = machine()
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines]) + (
        f"\n\n{len(road.dataset.train)} training images; n = {n} test images with {boxes:,} boxes; one seed. "
        f"{here['cpu']}, {torch.get_num_threads()} thread, torch {here['torch']}, {here['date']}."
    )
