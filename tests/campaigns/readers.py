"""Everything that reads a file, for `fuzz.py`: how a whole one is made, and how the program reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from label_fakes import FakeSource, FakeTeacher, FakeViews
from PIL import Image
from torch import nn

from pocketvit.deployment import OnnxModel, export_onnx
from pocketvit.errors import PocketError
from pocketvit.files import read_arrays
from pocketvit.labels import LabelStore, write_labels
from pocketvit.models import create_student, load_model, save_model
from pocketvit.models.checkpoint import read_weights
from pocketvit.reporting import Table
from pocketvit.reporting.results import load_results
from pocketvit.settings import Distill, dump, load
from pocketvit.sources import open_images, pack_dataset
from pocketvit.sources.decode import BrokenImage, decode
from pocketvit.sources.pack import Pack
from pocketvit.training.checkpoint import read_checkpoint, save_checkpoint
from pocketvit.training.metrics import read_metrics

SIDE = 16
TRACE = "/tmp/pocketvit-ran-code"  # what a weights file would write if anything in it were run


def draw(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def _store(folder: Path) -> Path:
    source = FakeSource(20)
    write_labels(folder, source, FakeViews(source), [FakeTeacher("a")], 1, progress=False, batch_size=8)
    return next(folder.rglob("rows-*.safetensors"))


def _read_store(path: Path) -> object:
    folder = next(one for one in (path.parent, *path.parents) if any(one.glob("*/manifest.json")))
    store = LabelStore(folder)
    return [store.read(key, 0) for key in store.teachers()]


def _manifest(folder: Path) -> Path:
    return _store(folder).parent.parent / "manifest.json"


def _checkpoint(folder: Path) -> Path:
    save_checkpoint(folder / "last.safetensors", {"model.w": torch.arange(40.0)}, {"step": 3, "config": {"lr": 0.1}})
    return folder / "last.safetensors"


def _pth(folder: Path) -> Path:
    torch.save({"state_dict": nn.Linear(4, 3).state_dict(), "epoch": 3}, folder / "weights.pth")
    return folder / "weights.pth"


def _code(folder: Path) -> Path:
    """A pickle that would run something."""

    class Command:
        def __reduce__(self) -> tuple:
            return Path.touch, (Path(TRACE),)

    import pickle

    (folder / "weights.pth").write_bytes(pickle.dumps({"w": Command()}, protocol=2))
    return folder / "weights.pth"


def _read_code(path: Path) -> object:
    try:
        return read_weights(path)
    finally:
        if Path(TRACE).exists():
            raise AssertionError("code out of a weights file was run")


def _student(folder: Path) -> Path:
    model = create_student("pocket_xs", num_classes=2, image_size=SIDE, patch_size=8, stem="patch")
    return save_model(model, folder, classes=("cat", "dog"))


def _onnx(folder: Path) -> Path:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    from pocketvit.views.preprocessing import Preprocessing

    about = Preprocessing.plain((4, (0.5,) * 3, (0.5,) * 3))
    return export_onnx(model, folder / "model.onnx", classes=("cat", "dog"), preprocessing=about)


def _config(folder: Path) -> Path:
    (folder / "config.yaml").write_text(dump(Distill(images="photos", teacher=("resnet18",), epochs=3)))
    return folder / "config.yaml"


def _results(folder: Path) -> Path:
    row = {
        "key": "student", "name": "student", "role": "student", "status": "measured", "accuracy": 0.9, "n": 60,
        "interval": [0.8, 0.95], "ece": 0.1, "min_class": ["cat", 0.5], "parameters": 12, "flops": 30, "bytes": 400,
        "latency_ms": {"p50": 1.0, "p90": 2.0}, "memory_mb": 3.0, "class_auc": [0.5, None],
    }  # fmt: skip
    value = {
        "title": "cats", "command": "pocketvit distill", "created": "2026-11-28T20:00:00+0000", "rows": [row],
        "machine": {"cpu": "one", "cores": 2, "threads": 1}, "notes": ["one"], "differences": ["none"],
        "dataset": {"name": "cats", "classes": ["cat", "dog"], "counts": {"test": 60}, "scored_on": "test",
                    "task": "classification", "chance": 0.5, "notes": ["a note"]},
        "reliability": {"before": {"confidence": [0.5], "accuracy": [0.4], "counts": [9]}},
        "teachers": [{"name": "big", "licence": "mit"}], "curves": {"student": "metrics.jsonl"},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(value))
    return folder / "results.json"


def _read_results(path: Path) -> object:
    return str(Table.of(load_results(path.parent)))


def _metrics(folder: Path) -> Path:
    line = {"epoch": 1, "step": 4, "loss": 0.5, "terms": {"kl": 0.1}, "seconds": 0.1}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | {"epoch": one}) + "\n" for one in (1, 2, 3)))
    return folder / "metrics.jsonl"


def _predictions(folder: Path) -> Path:
    arrays = {"student": np.ones((6, 2), np.float32), "names": np.array(["a", "b"])}
    np.savez_compressed(folder / "predictions.npz", **arrays)  # type: ignore[arg-type]
    return folder / "predictions.npz"


def _npz(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"train_images": rng.integers(0, 255, (12, 8, 8), dtype=np.uint8), "train_labels": np.arange(12) % 3}
    np.savez(folder / "images.npz", **arrays)  # type: ignore[arg-type]
    return folder / "images.npz"


def _csv(folder: Path) -> Path:
    draw(folder / "images")
    lines = ["file,label,patient"]
    lines += [f"images/{name}/{one}.png,{name},{one}" for name in ("cat", "dog") for one in range(6)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def _open(path: Path) -> object:
    return open_images(path, progress=False)


def _pack(folder: Path) -> Path:
    pack_dataset(open_images(draw(folder / "images"), progress=False), folder / "packs", progress=False)
    return next((folder / "packs").glob("train-*")) / "index.safetensors"


def _read_pack(path: Path) -> object:
    pack = Pack(path.parent)
    return pack.rgb(np.arange(len(pack)))


def _picture(suffix: str, **options: object):
    def make(folder: Path) -> Path:
        y, x = np.mgrid[:24, :32]
        Image.fromarray(np.stack([8 * x % 256, 9 * y % 256, x * y % 256], -1).astype(np.uint8)).save(
            folder / f"picture{suffix}", **options
        )
        return folder / f"picture{suffix}"

    return make


def _decode(path: Path) -> object:
    try:
        return decode(path)
    except BrokenImage as error:  # listed as broken, and the others go on
        raise PocketError(error.why) from error


ALL = {
    "soft labels, a shard": (_store, _read_store),
    "soft labels, the manifest": (_manifest, _read_store, "json"),
    "checkpoint": (_checkpoint, read_checkpoint),
    "weights of torch.save": (_pth, read_weights),
    "weights that would run code": (_code, _read_code),
    "weights of safetensors": (_checkpoint, read_weights),
    "student, config.json": (
        lambda folder: _student(folder) / "config.json",
        lambda path: load_model(path.parent),
        "json",
        10,
    ),
    "student, weights": (
        lambda folder: _student(folder) / "model.safetensors",
        lambda path: load_model(path.parent),
        "",
        10,  # two megabytes each, of which hypothesis keeps some
    ),
    "ONNX": (_onnx, OnnxModel),
    "config.yaml": (_config, load),
    "results.json": (_results, _read_results, "json"),
    "metrics.jsonl": (_metrics, read_metrics),
    "predictions.npz": (_predictions, read_arrays),
    "images in an npz": (_npz, _open),
    "table of labels": (_csv, _open),
    "pack, the index": (_pack, _read_pack),
    "PNG": (_picture(".png"), _decode),
    "JPEG": (_picture(".jpg", quality=80), _decode),
    "TIFF": (_picture(".tif", compression="tiff_lzw"), _decode),
    "GIF": (_picture(".gif"), _decode),
    "WebP": (_picture(".webp"), _decode),
    "BMP": (_picture(".bmp"), _decode),
}
