"""Four ways to make a ViT smaller on one bench: distil a smaller one, prune, share weights, quantize - and together.

Shows   one distilled student and what becomes of its file: pruned to half, two blocks sharing their layers, int8 with
        scales found while it runs or calibrated, all of them in a chain; beside them a smaller student of about the
        pruned one's size, distilled from the start for as many images as training and recovery together. Recovery
        with the teacher's stored labels, and with the images' own labels alone. Sizes are those of files on disk.
Paper   "Compressing Vision Transformers for Low-Resource Visual Learning" (arXiv 2309.02617) compares distillation,
        quantization, pruning and weight multiplexing, and says that distillation is the simplest and as good.
Data    a MedMNIST-layout .npz of 28 px (blood cells); any other set of images works.
Cost    about 20 minutes of one processor core; --small: about 4 minutes.
Command pocketvit run recipes/compress_vit.py --images data/blood_28.npz
Result  recipes/compress_vit.md
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from pocketvit.compression import recovery, share
from pocketvit.compression.recover import Step
from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig, ViewConfig
from pocketvit.deployment.export import export_onnx
from pocketvit.deployment.latency import measure
from pocketvit.errors import PocketError
from pocketvit.files import human_bytes, human_time, read_json, write_json, write_text
from pocketvit.labels import LabelStore
from pocketvit.metrics.intervals import wilson_interval
from pocketvit.models.flops import count_parameters
from pocketvit.road.answering import file_answers, probabilities_of, road_answers
from pocketvit.road.baselines import without_teachers
from pocketvit.road.compress import prune_by_loss
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.road.rounding import USUAL, Rounding, write_int8
from pocketvit.road.ship import preprocessing_of
from pocketvit.road.train import train_network
from pocketvit.road.viewing import view_config
from pocketvit.rundir import machine
from pocketvit.sources import Dataset, open_images
from pocketvit.sources.subset import Subset, balanced

MOST = 4_000  # training images
SHOWN = 24_000  # images that the first student sees; recovery sees half as many
STATIC = Rounding("static")


def config(small: bool = False, view: ViewConfig | None = None, images: int = MOST) -> RunConfig:
    """The first student and how it is trained."""
    view = view or ViewConfig(view_size=28)
    epochs = max(2, round((SHOWN // 6 if small else SHOWN) / images))
    return RunConfig(
        network=NetworkConfig("pocket_s", stem="hybrid"),
        labels=LabelConfig(views=epochs),
        view=view,
        loss=LossConfig(objective="zscore", temperature=2.0, weight=0.9),
        train=TrainConfig(epochs=epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, precision="fp32"),
    )


class Bench:
    """Trains and measures the networks of one seed; what is on disk is read."""

    def __init__(self, road: Road, config: RunConfig, folder: Path, store: LabelStore, keys: Sequence[str]) -> None:
        self.road, self.config, self.folder, self.store, self.keys = road, config, folder, store, keys

    def trained(self, key: str, config: RunConfig, model: nn.Module | None = None, *, taught: bool = True) -> nn.Module:
        """Train a network (or go on with one) with the teacher's stored labels, or with the images' own alone."""
        used = config if taught else without_teachers(config, self.road)
        return train_network(
            self.road, used, self.folder / key, model=model, input=self.road.input,
            store=self.store if taught else None, keys=self.keys if taught else (),
        )  # fmt: skip

    def recovered(self, key: str, model: nn.Module, step: Step, *, taught: bool = True) -> nn.Module:
        """Train a compressed network again."""
        config = dataclasses.replace(self.config, train=recovery(self.config.train, step))
        return self.trained(key, config, model, taught=taught)

    def row(self, key: str, name: str, model: nn.Module, rounding: Rounding | None = None) -> dict[str, Any]:
        """Measure the file of a network: fp32, or int8 made as ``rounding`` says."""
        result = self.folder / "rows" / f"{key}.json"
        if result.is_file():
            return read_json(result)
        fp32, int8 = self.folder / "rows" / f"{key}.onnx", self.folder / "rows" / f"{key}-int8.onnx"
        road = self.road
        about = preprocessing_of(road, road.input)
        model.cpu().eval()
        export_onnx(model, fp32, classes=road.dataset.classes, preprocessing=about, task=road.task)
        file, kept = fp32, ""
        if rounding is not None:
            file, kept = int8, write_int8(model, fp32, int8, road, road.input, rounding)
        source = road.scored
        assert source is not None
        given = road_answers({"": file_answers(file)}, road, source)[""]
        right = int((given.argmax(1) == source.targets).sum())
        row = {
            "key": key,
            "name": name,
            "parameters": count_parameters(model),
            "bytes": file.stat().st_size,
            "right": right,
            "n": len(source),
            "interval": wilson_interval(right, len(source)),
            "kept": kept,
            "ms": measure({"": file}, image_size=road.input[0], seconds=0.5)[""].p50,
        }
        write_json(result, row)
        return row


def rows(bench: Bench) -> list[dict[str, Any]]:
    """Train what is missing and measure everything, cheap rows first."""
    base, found = bench.config, []
    half_as_long = recovery(base.train, "prune").epochs

    first = bench.trained("first", base)
    found.append(bench.row("first", "student, distilled: fp32", first))
    found.append(bench.row("first-int8", "... int8, dynamic", first, USUAL))
    found.append(bench.row("first-static", "... int8, static (QDQ)", first, STATIC))

    pruned = halved(bench, first)
    found.append(bench.row("pruned-raw", "pruned by half, not recovered: fp32", pruned))
    taught = bench.recovered("pruned", pruned, "prune")
    found.append(bench.row("pruned", "pruned by half, recovered with the teacher's labels: fp32", taught))
    alone = bench.recovered("pruned-alone", halved(bench, first), "prune", taught=False)
    found.append(bench.row("pruned-alone", "pruned by half, recovered with labels alone: fp32", alone))

    shared = share(first, 2)
    found.append(bench.row("shared-raw", "shared by 2 blocks, not recovered: fp32", shared))
    found.append(
        bench.row(
            "shared",
            "shared by 2 blocks, recovered with the teacher's labels: fp32",
            bench.recovered("shared", shared, "share"),
        )
    )
    shared_alone = bench.recovered("shared-alone", share(first, 2), "share", taught=False)
    found.append(bench.row("shared-alone", "shared by 2 blocks, recovered with labels alone: fp32", shared_alone))

    longer = dataclasses.replace(base.train, epochs=base.train.epochs + half_as_long)
    smaller = dataclasses.replace(base, network=dataclasses.replace(base.network, name="pocket_xs"), train=longer)
    found.append(bench.row("smaller", "smaller student, distilled: fp32", bench.trained("smaller", smaller)))
    small_alone = bench.trained("smaller-alone", smaller, taught=False)
    found.append(bench.row("smaller-alone", "smaller student, labels alone: fp32", small_alone))

    chain = bench.recovered("chain", share(taught, 2), "share")
    found.append(bench.row("chain", "pruned, then shared, recovered twice: fp32", chain))
    found.append(bench.row("chain-static", "... int8, static (QDQ)", chain, STATIC))
    found.append(
        bench.row(
            "smaller-static", "smaller student, distilled: int8, static", bench.trained("smaller", smaller), STATIC
        )
    )
    return found


def halved(bench: Bench, first: nn.Module) -> nn.Module:
    """Return the first student pruned by half."""
    return prune_by_loss(bench.road, bench.config, first, 0.5, bench.road.input, store=bench.store, keys=bench.keys)


def few(dataset: Dataset, images: int = 600) -> Dataset:
    """Keep some validation images: they are looked at after every epoch, and check the int8 files."""
    val = dataset.val
    return (
        dataclasses.replace(dataset, val=Subset(val, balanced(val, images))) if val and len(val) > images else dataset
    )


def recipe(images: str | None, folder: Path, small: bool) -> str:
    """Train a teacher, store its labels, then every row from them."""
    if images is None:
        raise PocketError("name one set of images: --images FILE.npz, as MedMNIST's files of 28 px.")
    dataset = few(open_images(images))
    count = min(len(dataset.train), 600 if small else MOST)
    side = min(dataset.train.size or (28, 28))
    base = config(small, view_config(dataset, size=side, augment="light"), count)
    folder = folder / dataset.name
    road = open_road(dataset, base.view, folder.parents[1] / "shared").reduced(count)
    teaching = TrainConfig(
        epochs=base.train.epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, precision="fp32"
    )
    start = time.monotonic()
    teacher = train_teacher(road, "cifar_resnet20", teaching, input_size=side)
    store = label_road(road, [teacher], base.labels)
    bench = Bench(road, base, folder, store, [store.key(teacher)])
    found = rows(bench)
    assert road.scored is not None
    given = probabilities_of(teacher, road, road.scored)
    right = int((given.argmax(1) == road.scored.targets).sum())
    return table(found, right, road, folder, time.monotonic() - start)


def table(found: list[dict[str, Any]], teacher_right: int, road: Road, folder: Path, seconds: float) -> str:
    """Return the table as markdown, and write it."""
    n = found[0]["n"]
    low, high = wilson_interval(teacher_right, n)
    lines = [
        "| file | accuracy % | 95 % interval | parameters | bytes | times smaller | ms |",
        "|---|---|---|---|---|---|---|",
        f"| teacher (cifar_resnet20), not exported | {100 * teacher_right / n:.2f} | "
        f"{100 * low:.1f} to {100 * high:.1f} | | | | |",
    ]
    whole = found[0]["bytes"]
    for row in found:
        low, high = row["interval"]
        lines.append(
            f"| {row['name']} | {100 * row['right'] / n:.2f} | {100 * low:.1f} to {100 * high:.1f} | "
            f"{row['parameters']:,} | {row['bytes']:,} | {whole / row['bytes']:.1f} | {row['ms']:.2f} |"
        )
    kept = [f"{row['key']}: {row['kept']}" for row in found if row["kept"]]
    here = machine()
    lines += [
        "",
        f"{n:,} test images, one seed; {len(road.dataset.train):,} training images; {here['cpu']}, one thread, "
        f"torch {here['torch']}; {human_time(seconds)} in this call. First file: {human_bytes(whole)}.",
        *(f"{line}." for line in kept),
    ]
    text = "\n".join(lines)
    write_text(folder / "table.md", text + "\n")
    return text
