"""The ladder, measured: students of every size at equal training time, by accuracy, latency and size as int8 files.

Shows   what each size of the ladder reaches in five and in twenty minutes of one processor core by labels alone, in
        whole pictures and in smaller ones first, beside light convolutional networks through the same door; which of
        them no other one beats in accuracy, latency and size at once.
Paper   equal training time as in "Searching for Efficient Transformers" (Primer, arXiv 2109.08668); Muon (Jordan 2024).
Data    any images, as CIFAR-10 in MedMNIST's layout (cifar10.npz); its own test split is scored.
Cost    an hour and three quarters of one processor core; --small: about 2 minutes.
Command pocketvit run recipes/ladder.py --images data/cifar10.npz
Result  recipes/ladder.md
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from pocketvit.config import NetworkConfig, RunConfig, Stem, TrainConfig, ViewConfig
from pocketvit.deployment.export import export_onnx
from pocketvit.deployment.latency import measure
from pocketvit.errors import PocketError
from pocketvit.files import read_json, write_json, write_text
from pocketvit.models.flops import count_flops, count_parameters
from pocketvit.road.answering import file_answers, road_answers
from pocketvit.road.images import Road, open_road
from pocketvit.road.rounding import USUAL, write_int8
from pocketvit.road.ship import preprocessing_of
from pocketvit.road.students import input_of
from pocketvit.road.train import train_network
from pocketvit.road.viewing import view_config
from pocketvit.rundir import machine
from pocketvit.sources import open_images

SHORT, LONG = 5, 20  # minutes


class Rung(NamedTuple):
    """A student, and how long it learns."""

    name: str
    stem: Stem = "conv"
    minutes: int = SHORT
    progressive: float = 0.0  # share of the steps, the first ones, in smaller pictures


STUDENTS = {
    **{f"pocket_{size}": Rung(f"pocket_{size}") for size in ("xxs", "xs", "s", "m")},
    **{f"pocket_{size}, smaller first": Rung(f"pocket_{size}", progressive=0.6) for size in ("xxs", "xs", "s")},
    "pocket_s, hybrid stem": Rung("pocket_s", "hybrid"),
    "cifar_resnet20": Rung("cifar_resnet20", "patch"),
    "mobilenetv4_conv_small_050": Rung("mobilenetv4_conv_small_050", "patch"),
    **{f"pocket_{size}, {LONG} minutes": Rung(f"pocket_{size}", minutes=LONG) for size in ("xxs", "xs", "s")},
}


def config(small: bool = False, key: str = "pocket_s", view: ViewConfig | None = None) -> RunConfig:
    """A student that learns labels until its minutes are over."""
    name, stem, minutes, progressive = STUDENTS[key]
    return RunConfig(
        network=NetworkConfig(name, stem=stem),
        view=view or ViewConfig(view_size=32),
        train=TrainConfig(
            epochs=4,  # about
            seconds=10 if small else 60 * minutes,
            batch_size=64,
            optimizer="muon",
            learning_rate=5e-3,
            schedule="wsd",
            precision="fp32",
            progressive=progressive,
        ),
    )


def recipe(images: str | None, folder: Path, small: bool, only: tuple[str, ...] = tuple(STUDENTS)) -> str:
    """Train, export and score one student after the other; time all files in turns at the end."""
    if images is None:
        raise PocketError("name the images: --images data/cifar10.npz.")
    dataset = open_images(images, val_fraction=0)  # nothing is chosen: the last weights count
    road = open_road(dataset, view_config(dataset, augment="light"), folder.parent / "shared")
    if small:
        road = road.reduced(500)
    rows = [scored(road, key, folder / key.replace(", ", "-").replace(" ", "-"), small) for key in only]
    return table(rows, road, folder)


def scored(road: Road, key: str, folder: Path, small: bool) -> dict[str, Any]:
    """Train a student, write both of its files and score them; read what was done before."""
    result = folder / "result.json"
    if result.is_file():
        return read_json(result)
    chosen = config(small, key, road.view)
    model = train_network(road, chosen, folder).cpu().eval()
    fed, source = input_of(chosen.network, model, road), road.scored
    assert source is not None
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "int8")}
    preprocessing = preprocessing_of(road, fed)
    export_onnx(model, files["fp32"], task=road.task, classes=road.dataset.classes, preprocessing=preprocessing)
    write_int8(model, files["fp32"], files["int8"], road, fed, USUAL)
    given = road_answers({name: file_answers(file) for name, file in files.items()}, road, source)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    row = {
        "key": key,
        "n": len(source),
        "accuracy": {name: road.task.validate(one, source.targets)["val_accuracy"] for name, one in given.items()},
        "bytes": {name: file.stat().st_size for name, file in files.items()},
        "parameters": count_parameters(model),
        "flops": count_flops(model, fed[0]),
        "epochs": len(lines),
        "files": {name: str(file) for name, file in files.items()},
    }
    write_json(result, row)
    return row


def best_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that no other one matches in accuracy, latency and bytes at once and beats in one of them."""

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        pairs = [(-one["accuracy"]["int8"], -other["accuracy"]["int8"]), (one["ms"], other["ms"])]
        pairs.append((one["bytes"]["int8"], other["bytes"]["int8"]))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [row for row in rows if not any(beats(other, row) for other in rows)]


def table(rows: list[dict[str, Any]], road: Road, folder: Path) -> str:
    """Return the table as markdown, and write it."""
    timed = measure({row["key"]: row["files"]["int8"] for row in rows}, seconds=3.0 * len(rows))
    rows = [row | {"ms": timed[row["key"]].best} for row in rows]
    front = {row["key"] for row in best_of(rows)}
    lines = [
        "| student | accuracy of the int8 file, % | of fp32 | ms, int8 | bytes, int8 | parameters | MFLOPs | epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["bytes"]["int8"]):
        name = f"**{row['key']}**" if row["key"] in front else row["key"]
        exact, rounded = (100 * row["accuracy"][kind] for kind in ("fp32", "int8"))
        lines.append(
            f"| {name} | {rounded:.2f} | {exact:.2f} | {row['ms']:.2f} | {row['bytes']['int8']:,} | "
            f"{row['parameters']:,} | {row['flops'] / 1e6:.0f} | {row['epochs']} |"
        )
    here = machine()
    lines += [
        "",
        f"{len(road.dataset.train):,} training images of {road.view.view_size} px, n = {rows[0]['n']:,} test images; "
        f"{SHORT} minutes of training where nothing else is said, labels alone, one seed, last weights. Bold: no other "
        f"one is as good, fast and small at once. Latency is the best of one image in turns; {here['cpu']}, "
        f"{torch.get_num_threads()} thread, torch {here['torch']}, {here['date']}.",
    ]
    text = "\n".join(lines)
    write_text(folder / "table.md", text + "\n")
    return text
