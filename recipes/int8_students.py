"""Int8 that survives: nine small students, each as five int8 files, against its own fp32 file on the test split.

Shows   what rounding to 8 bits costs students of several sizes, stems, tokens and tasks: scales of activations found
        while the file runs (what ships by default) or calibrated (for accelerators of phones), on real views as the
        product does it, with layers taken back where a file loses too much; and calibrated without any image of the
        set and with nothing taken back: on a bank that a student chose, on drawn pictures as they come, on noise.
Paper   "Compressing Vision Transformers for Low-Resource Visual Learning" (arXiv 2309.02617); data-free calibration:
        "Patch Similarity Aware Data-Free Quantization for Vision Transformers" (arXiv 2203.02250).
Data    a MedMNIST-layout .npz of 28 px (blood cells); the student of several labels sees four of its images a picture.
Cost    about 20 minutes of one processor core; --small: about 6 minutes.
Command pocketvit run recipes/int8_students.py --images data/blood_28.npz
Result  recipes/int8_students.md
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pocketvit.compression import fake_quantize, fold_norms, grids_of, noise_views, write_integers
from pocketvit.config import NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.deployment.export import export_onnx
from pocketvit.deployment.int8 import BITS, open_graph, save_int8
from pocketvit.errors import NotSmaller, PocketError
from pocketvit.files import atomic, human_time, read_json, write_json, write_text
from pocketvit.road.answering import file_answers, road_answers
from pocketvit.road.images import Road, open_road
from pocketvit.road.rounding import CALIBRATED, Rounding, write_int8
from pocketvit.road.ship import preprocessing_of
from pocketvit.road.train import train_network
from pocketvit.road.viewing import view_config
from pocketvit.rundir import machine
from pocketvit.sources import open_images
from pocketvit.synthesis import DrawnConfig, draw_bank
from pocketvit.synthesis.procedural import Procedural
from pocketvit.teachers import load_teacher

MOST, SHOWN = 8_000, 16_000  # training images, and how many of their views a student sees
SEVERAL = "several"
# key -> size, stem, distillation tokens; of one label a picture, but the last
STUDENTS = {
    "xs-conv": ("pocket_xs", "conv", 0),
    "xxs-patch": ("pocket_xxs", "patch", 0),
    "xxs-hybrid": ("pocket_xxs", "hybrid", 0),
    "xxs-conv": ("pocket_xxs", "conv", 0),
    "xs-patch-token": ("pocket_xs", "patch", 1),
    "xxs-shifted-token": ("pocket_xxs", "shifted", 1),
    f"xxs-conv-{SEVERAL}": ("pocket_xxs", "conv", 0),
    "s-hybrid": ("pocket_s", "hybrid", 0),
    "xs-shifted": ("pocket_xs", "shifted", 0),
}
FILES = {
    "dynamic": "dynamic",
    "static": "static",
    "bank": "static, of a bank",
    "drawn": "static, of drawn pictures",
    "noise": "static, of 1/f noise",
}


def config(small: bool = False, key: str = "xs-conv", view: ViewConfig | None = None, images: int = MOST) -> RunConfig:
    """A student that learns from the images' labels: who taught the weights does not matter to who rounds them."""
    size, stem, tokens = STUDENTS[key]
    return RunConfig(
        network=NetworkConfig(size, stem=stem, tokens=tokens),  # type: ignore[arg-type]
        view=view or ViewConfig(view_size=28),
        train=TrainConfig(
            epochs=max(1, round((SHOWN // 10 if small else SHOWN) / images)),
            batch_size=64,
            optimizer="muon",
            learning_rate=5e-3,
            schedule="wsd",
            precision="fp32",
        ),
    )


def four_in_one(images: str, file: Path) -> Path:
    """Write a set of several labels a picture: four images at half their size, and which classes are among them."""
    if file.is_file():
        return file
    arrays: dict[str, Any] = {}
    with np.load(images) as given:
        classes = 1 + max(int(given[name].max()) for name in given.files if name.endswith("_labels"))
        for name in (name for name in given.files if name.endswith("_images")):
            labels = f"{name.removesuffix('_images')}_labels"
            wide, targets = given[name].astype(np.uint16), given[labels].reshape(-1)
            half = (wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]) // 4
            random = np.random.default_rng(0)
            four = np.stack([random.permutation(len(half)) for _ in range(4)])
            rows = [np.concatenate(half[four[pair]], 2) for pair in ([0, 1], [2, 3])]
            arrays[name] = np.concatenate(rows, 1).astype(np.uint8)
            arrays[labels] = np.eye(classes, dtype=np.uint8)[targets[four]].max(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)
    return file


def calibrated(model: nn.Module, road: Road, fp32: Path, int8: Path, pixels: Tensor) -> None:
    """Write a QDQ file with scales from these views, whatever it answers: nobody is there to judge it."""
    plain = fold_norms(copy.deepcopy(model), road.input[0])
    rounded = fake_quantize(plain, pixels, road.input, bits=BITS, activations="static", learned=False)
    graph, signature = open_graph(fp32)
    write_integers(graph, grids_of(rounded))
    save_int8(graph, signature, int8)


def measured(key: str, model: nn.Module, road: Road, folder: Path, made: dict[str, Tensor]) -> dict[str, Any]:
    """Write all files of a student and judge them on the scored split; read what was done before."""
    result = folder / "result.json"
    if result.is_file():
        return read_json(result)
    model, fp32 = model.cpu().eval(), folder / "fp32.onnx"
    about: dict[str, Any] = {"classes": road.dataset.classes, "preprocessing": preprocessing_of(road, road.input)}
    export_onnx(model, fp32, task=road.task, **about)
    files, said = {"fp32": fp32} | {name: folder / f"{name}.onnx" for name in FILES}, {}
    for name in ("dynamic", "static"):
        try:
            said[name] = write_int8(model, fp32, files[name], road, road.input, Rounding(name))
        except NotSmaller as error:
            said[name] = f"refused: {error}"
            del files[name]
    for name, pixels in made.items():
        calibrated(model, road, fp32, files[name], pixels)
    source = road.scored
    assert source is not None
    given = road_answers({name: file_answers(file) for name, file in files.items()}, road, source)
    scores = {name: float(road.task.validate(one, source.targets)["val_accuracy"]) for name, one in given.items()}
    row = {
        "key": key,
        "n": len(source),
        "accuracy": scores,
        "drop": {name: 100 * (scores["fp32"] - score) for name, score in scores.items()},
        "agreement": {name: float(road.task.agreement(given["fp32"], one)) for name, one in given.items()},
        "bytes": {name: file.stat().st_size for name, file in files.items()},
        "said": said,
    }
    write_json(result, row)
    return row


def synthetic_views(chooser: nn.Module, road: Road, folder: Path) -> dict[str, Tensor]:
    """Calibration views that come from no image of the set; the bank's are chosen by a student's answers."""
    side, mean, std = road.input
    teacher = load_teacher(chooser, input_size=side, norm=(mean, std), classes=road.dataset.classes)
    bank = draw_bank(folder / "bank", teacher, DrawnConfig(CALIBRATED), progress=False)
    return {
        "bank": torch.from_numpy(np.array(bank.images)).permute(0, 3, 1, 2).contiguous(),
        "drawn": torch.from_numpy(Procedural(0, side).take(np.arange(CALIBRATED))),
        "noise": noise_views(CALIBRATED, side).pixels,
    }


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train nine students, one after the other, and write five int8 files of each."""
    if images is None:
        raise PocketError("name one set of images: --images FILE.npz, as MedMNIST's files of 28 px.")
    start, shared = time.monotonic(), folder.parent / "shared"
    roads: dict[bool, Road] = {}
    made: dict[str, Tensor] = {}
    found = []
    for key in STUDENTS:
        many = key.endswith(SEVERAL)
        if many not in roads:
            dataset = open_images(four_in_one(images, folder / f"{SEVERAL}.npz") if many else images)
            side = min(dataset.train.size or (28, 28))
            road = open_road(dataset, view_config(dataset, size=side, augment="light"), shared)
            roads[many] = road.reduced(min(len(dataset.train), 600 if small else MOST))
        road = roads[many]
        chosen = config(small, key, road.view, len(road.dataset.train))
        model = train_network(road, chosen, folder / key)
        made = made or synthetic_views(model, road, folder)
        found.append(measured(key, model, road, folder / key, made))
    return table(found, folder, roads[False], time.monotonic() - start)


def table(found: list[dict[str, Any]], folder: Path, road: Road, seconds: float) -> str:
    """Return the table as markdown, and write it."""
    head = ["student", "fp32, %", *(f"{name}: points lost (answers alike, %)" for name in FILES.values()), "bytes"]
    lines = [head, ["---"] * len(head)]
    for row in found:
        cells = [
            f"{row['drop'][name]:+.2f} ({100 * row['agreement'][name]:.1f})" if name in row["drop"] else "refused"
            for name in FILES
        ]
        least = min(size for name, size in row["bytes"].items() if name != "fp32")
        size = f"{row['bytes']['fp32']:,} to {least:,}"
        lines.append([row["key"], f"{100 * row['accuracy']['fp32']:.2f}", *cells, size])
    for name, of in (("worst", max), ("median", median)):
        drops = [[row["drop"][file] for row in found if file in row["drop"]] for file in FILES]
        alike = [[row["agreement"][file] for row in found if file in row["drop"]] for file in FILES]
        least = min if of is max else median
        cells = [f"{of(a):+.2f} ({100 * least(b):.1f})" if a else "" for a, b in zip(drops, alike, strict=True)]
        lines.append([f"**{name}**", "", *cells, ""])
    said = [f"{row['key']}, {name}: {text}" for row in found for name, text in row["said"].items()]
    here = machine()
    text = "\n".join(
        [
            *("| " + " | ".join(line) + " |" for line in lines),
            "",
            f"n = {found[0]['n']:,} test images; {len(road.dataset.train):,} training images, seed 0 each; "
            f"{here['cpu']}, {torch.get_num_threads()} thread, torch {here['torch']}, {here['date']}; "
            f"{human_time(seconds)} in this call.",
            "",
            *(f"* {line}" for line in said),
        ]
    )
    write_text(folder / "table.md", text + "\n")
    return text
