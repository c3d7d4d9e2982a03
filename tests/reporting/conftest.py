"""A realistic run folder, made in a second from scikit-learn's digits, that the whole room's tests render."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def wilson(right: int, n: int) -> list[float]:
    """The 95 % Wilson interval of a share."""
    z, share = 1.959964, right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return [middle - half, middle + half]


def write_run(folder: Path, classes: tuple[str, ...] = tuple("0123456789")) -> Path:
    """Write results.json, predictions.npz, samples.npz, metrics and config.yaml of an invented run on real digits."""
    digits = load_digits()
    train, test, train_targets, targets, _, where = train_test_split(
        digits.data / 16,
        digits.target,
        np.arange(len(digits.target)),
        test_size=360,
        stratify=digits.target,
        random_state=0,
    )
    few = slice(0, 120)
    warnings.simplefilter("ignore", ConvergenceWarning)
    models = {
        "teacher-conv": MLPClassifier((64,), learning_rate_init=0.01, max_iter=25, random_state=0).fit(
            train, train_targets
        ),
        "teacher-inv": MLPClassifier((32,), learning_rate_init=0.01, max_iter=15, random_state=1).fit(
            train, train_targets
        ),
        "alone": LogisticRegression(C=0.3, max_iter=200).fit(train[few], train_targets[few]),
        "student": LogisticRegression(C=0.1, max_iter=200).fit(train, train_targets),
        "ceiling": LogisticRegression(C=3.0, max_iter=200).fit(train, train_targets),
    }
    probabilities = {key: model.predict_proba(test) for key, model in models.items()}
    noise = np.random.default_rng(0).normal(0, 0.04, probabilities["student"].shape)
    probabilities["int8"] = np.clip(probabilities["student"] + noise, 1e-3, None)
    probabilities["int8"] /= probabilities["int8"].sum(1, keepdims=True)
    about = {  # name, role, parameters, flops, bytes, latency, memory
        "teacher-conv": ("teacher: convolution", "teacher", 272_000, 41e6, 1_100_000, 2.21, 31),
        "teacher-inv": ("teacher: involution", "teacher", 189_000, 29e6, 770_000, 3.05, 28),
        "alone": ("student, few labels", "baseline", 470_000, 31e6, 1_900_000, 1.12, 22),
        "student": ("student, distilled", "student", 470_000, 31e6, 1_900_000, 1.12, 22),
        "ceiling": ("student, all labels", "ceiling", 470_000, 31e6, 1_900_000, 1.12, 22),
        "int8": ("model-int8.onnx", "int8", 470_000, 31e6, 540_000, 0.81, 14),
    }
    teachers = (probabilities["teacher-conv"] + probabilities["teacher-inv"]) / 2
    rows = []
    for key, (name, role, parameters, flops, size, latency, memory) in about.items():
        answers = probabilities[key].argmax(1)
        right = int((answers == targets).sum())
        by_class = [float((answers[targets == c] == c).mean()) for c in range(10)]
        worst = int(np.argmin(by_class))
        rows.append(
            {
                "key": key,
                "name": name,
                "role": role,
                "status": "measured",
                "accuracy": right / len(targets),
                "interval": wilson(right, len(targets)),
                "n": len(targets),
                "agreement": None if role == "teacher" else float((answers == teachers.argmax(1)).mean()),
                "ece": 0.02 + 0.01 * len(rows),
                "calibrated": role != "ceiling",
                "min_class": [classes[worst], by_class[worst]],
                "parameters": parameters,
                "flops": int(flops),
                "bytes": size,
                "latency_ms": {"p50": latency, "p90": latency * 1.13},
                "memory_mb": memory,
                "seeds": 1,
                "note": "trained on 120 of the 1,165 labels" if key == "alone" else "",
            }
        )
    rows.append({"key": "mobilenet", "name": "MobileNetV3-Small", "role": "other", "status": "not run"})
    for key, final in (("alone", 0.87), ("student", 0.955), ("ceiling", 0.965)):
        place = folder / f"{key}-training"
        place.mkdir(parents=True)
        noise = np.random.default_rng(ord(key[0])).normal(0, 0.008, 30)
        lines = [
            {
                "step": 10 * (epoch + 1),
                "epoch": epoch + 1,
                "loss": 0.15 + (2.1 if key == "student" else 1.6) * math.exp(-epoch / 6) + abs(noise[epoch]),
                "terms": {},
                "lr": 1e-3,
                "val_accuracy": final - 0.75 * math.exp(-epoch / 4) + noise[epoch],
                "images_per_second": 4000,
            }
            for epoch in range(30)
        ]
        (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = {
        "title": "Digits, two teachers, few labels",
        "command": "pocketvit demo",
        "created": "2026-11-21T10:04:00+00:00",
        "machine": {"cpu": "Intel Xeon 2.6 GHz", "cores": 2, "threads": 1, "torch": "2.15.0", "os": "Linux 6.1"},
        "dataset": {
            "name": "digits",
            "classes": list(classes),
            "counts": {"train": 1165, "val": 272, "test": 360},
            "scored_on": "test",
            "notes": ["No split came with the images: 20 % were held out for test, stratified by class, seed 0."],
        },
        "rows": rows,
        "curves": {key: f"{key}-training/metrics.jsonl" for key in ("alone", "student", "ceiling")},
        "samples": "samples.npz",
        "predictions": "predictions.npz",
        "notes": [],
        "differences": [],
    }
    (folder / "results.json").write_text(json.dumps(results, ensure_ascii=False), encoding="utf-8")
    (folder / "config.yaml").write_text("views:\n  view_size: 16\n  crop: padded\ntrain:\n  epochs: 30\n")
    names = [f"{classes[t]}/digit-{i:04d}.png" for t, i in zip(targets, where, strict=True)]
    np.savez(
        folder / "predictions.npz",
        targets=targets,
        names=np.array(names),
        **{key: array.astype(np.float16) for key, array in probabilities.items()},
    )
    pictures = np.stack([_enlarge(image) for image in digits.images[where]])
    views = np.stack(
        [np.roll(_enlarge(image), (i % 3 - 1, i % 2), (0, 1)) for i, image in enumerate(digits.images[:24])]
    )
    np.savez_compressed(
        folder / "samples.npz",
        views=views,
        labels=digits.target[:24],
        test_images=pictures,
        test_positions=np.arange(len(pictures)),
    )
    return folder


def _enlarge(image: np.ndarray) -> np.ndarray:
    grey = Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((16, 16), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


@pytest.fixture(scope="session")
def make_run():
    """The function that writes a run folder."""
    return write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """One run folder for tests that only read it."""
    return write_run(tmp_path_factory.mktemp("runs") / "digits-1")


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "digits-1"))
