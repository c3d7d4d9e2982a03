"""Our int8 files of a student beside those that ONNX Runtime's and OpenVINO's quantizers write by default.

    python benchmarks/deployed.py [--json] [--images FILE.npz | --run RUN] [--stem hybrid]

A student is distilled in a minute or two from a teacher that was trained as long, on scikit-learn's digits or on a file
in MedMNIST's layout; or it is that of a finished run. All files are made from one fp32 file and calibrated on the same
views; each answers the test images one by one and is timed at batch 1: one thread, which sleeps when idle, in turns on
the same images. OpenVINO's quantizer takes part where it is installed (`pip install openvino nncf`), and with ``--run``
the files of `export --target` for every runtime that is.

``latency_over_default`` and ``size_over_default`` are of the file that ships (scales found while it runs) over that of
`quantize_dynamic`; those of ``static`` are of QDQ files with calibrated scales, ours over that of `quantize_static`.
Drops are in points of accuracy below fp32, ``worst_drop`` and ``median_drop`` those of our two files.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _timing import alternate, print_table, run
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from torch import nn

import pocketvit
from pocketvit.config import LabelConfig, LossConfig, NetworkConfig, RunConfig, TrainConfig
from pocketvit.deployment import Signature, export_onnx, quantize_int8
from pocketvit.deployment.int8 import open_graph
from pocketvit.deployment.opening import open_file, size_of
from pocketvit.deployment.run import open_session
from pocketvit.deployment.runtimes import RUNTIMES
from pocketvit.errors import PocketError
from pocketvit.road.answering import batches
from pocketvit.road.images import Road, open_road
from pocketvit.road.label import label_road
from pocketvit.road.light import train_teacher
from pocketvit.road.reopen import reopen
from pocketvit.road.rounding import Rounding, calibrating, write_int8
from pocketvit.road.ship import preprocessing_of
from pocketvit.road.train import train_network
from pocketvit.road.viewing import view_config
from pocketvit.sources import open_images
from pocketvit.training.step import Input

STUDENT = "pocket_s"  # with the stem that `distill` takes for small images, if not asked for another
TEACHER = "cifar_resnet20x2"  # that of the demo
SIDE, TAUGHT, TEACHING = 32, 16_000, 8_000  # pixels, and views that student and teacher learn from
BLOCK = 8  # images that a candidate answers before the next one's turn

Answer = Callable[[np.ndarray], np.ndarray]
"""From a network's input float32 [1, 3, S, S] to its logits [1, C]."""


def train(images: str, stem: str, folder: Path) -> tuple[Road, nn.Module, nn.Module]:
    """Train a teacher and distil a student from it; return both with the images."""
    dataset = open_images(images or "digits", progress=False)
    mirrored = None if images else False  # a mirrored digit is another thing
    view = view_config(dataset, size=SIDE, augment="light", flip=mirrored)
    road = open_road(dataset, view, folder / "shared", device="cpu")
    road = road.reduced(min(len(road.dataset.train), TEACHING))

    def learning(shown: int) -> TrainConfig:
        epochs = max(1, round(shown / len(road.dataset.train)))
        return TrainConfig(epochs, batch_size=64, optimizer="muon", learning_rate=5e-3, precision="fp32")

    teacher = train_teacher(road, TEACHER, learning(TEACHING), input_size=SIDE)
    loss = LossConfig("kl", 2.0)  # z-scores cannot be had of two classes
    network = NetworkConfig(STUDENT, stem=stem)  # type: ignore[arg-type]
    config = RunConfig(network=network, view=view, labels=LabelConfig(views=2), loss=loss, train=learning(TAUGHT))
    store = label_road(road, [teacher], config.labels)
    student = train_network(road, config, folder / "student", teachers=[teacher], store=store)
    return road, student, teacher.module


def our_files(student: nn.Module, teacher: nn.Module | None, road: Road, side: Input, folder: Path) -> dict[str, Path]:
    """Export a student as `distill` and `export --target phone` do, and its teacher."""
    about: dict[str, Any] = {"classes": road.dataset.classes, "preprocessing": preprocessing_of(road, side)}
    student = student.cpu().eval()
    files = {name: folder / f"{name}.onnx" for name in ("fp32", "ours", "ours static")}
    export_onnx(student, files["fp32"], task=road.task, **about)
    for name, rounding in (("ours", Rounding()), ("ours static", Rounding("static"))):
        print(f"{name}: {write_int8(student, files['fp32'], files[name], road, side, rounding)}")
    if teacher is not None:
        files |= {name: folder / f"{name}.onnx" for name in ("teacher fp32", "teacher int8")}
        export_onnx(teacher.cpu().eval(), files["teacher fp32"], task=road.task, **about)
        quantize_int8(files["teacher fp32"], files["teacher int8"])
    return files


class Views(CalibrationDataReader):
    """Calibration inputs [N, 3, S, S] one by one, as ONNX Runtime asks for them."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.rest = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(({"pixels": one[None]} for one in self.rest), None)


def default_files(fp32: Path, inputs: np.ndarray) -> dict[str, Path]:
    """Quantize as ONNX Runtime does where nothing is said; a file that it cannot write or open is left out, aloud."""
    ways: dict[str, Callable[[Path], None]] = {
        "default": lambda file: quantize_dynamic(fp32, file),
        "default static": lambda file: quantize_static(fp32, file, Views(inputs)),
    }
    files = {}
    logging.disable(logging.WARNING)  # it advises on every call
    for name, write in ways.items():
        file = fp32.with_name(f"{name}.onnx")
        try:
            with np.errstate(all="ignore"):  # weights that are all alike get a scale of 0
                write(file)
            open_session(file)
        except Exception as error:  # of onnx, protobuf, ONNX Runtime
            print(f"{name}: none ({str(error).splitlines()[0]})")
            continue
        files[name] = file
    logging.disable(logging.NOTSET)
    return files


def onnx_answer(file: Path) -> Answer:
    """Run a file under ONNX Runtime."""
    session = open_session(file)
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def openvino_answers(fp32: Path, inputs: np.ndarray) -> tuple[dict[str, Answer], dict[str, int]]:
    """Run what OpenVINO makes of an fp32 file, and what NNCF's defaults quantize of that; with bytes on disk."""
    if any(importlib.util.find_spec(name) is None for name in ("openvino", "nncf")):
        print("OpenVINO's defaults: not run, as openvino and nncf are not installed")
        return {}, {}
    import nncf
    import openvino

    plain, data = openvino.Core().read_model(fp32), nncf.Dataset([one[None] for one in inputs])
    whole = {
        "openvino fp32": plain,
        "openvino default": nncf.quantize(plain, data),
        "openvino transformer": nncf.quantize(plain, data, model_type=nncf.ModelType.TRANSFORMER),
    }
    answers: dict[str, Answer] = {}
    sizes = {}
    for name, model in whole.items():
        file = fp32.with_name(f"{name}.xml")
        openvino.save_model(model, file, compress_to_fp16=False)
        sizes[name] = file.stat().st_size + file.with_suffix(".bin").stat().st_size
        exact = {"INFERENCE_PRECISION_HINT": "f32"} if name.endswith("fp32") else {}  # else bf16 where there is one
        compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_NUM_THREADS": 1, **exact})
        answers[name] = partial(_openvino_answer, compiled)
    return answers, sizes


def ported(run: str, folder: Path) -> dict[str, Path]:
    """Export a run for every other runtime that is installed and runs here; return the files by name."""
    files: dict[str, Path] = {}
    for target, runtime in RUNTIMES.items():
        try:
            runtime.check()
        except PocketError as error:
            print(f"{target}: not run ({error})")
            continue
        if runtime.load is None:
            print(f"{target}: not run ({runtime.unchecked})")
            continue
        made = pocketvit.export(run, target=target, out=folder / target)  # type: ignore[arg-type]
        print(made)
        files |= {
            f"ours {target}{' int8' if 'int8' in name else ' fp32'}": folder / target / name
            for name in made.data["files"]
        }
    return files


def _openvino_answer(compiled: Any, pixels: np.ndarray) -> np.ndarray:
    return compiled(pixels)[0]


def block(answer: Answer, inputs: np.ndarray) -> Callable[[], None]:
    """Return what answers the next `BLOCK` images, one by one."""
    images: Iterator[np.ndarray] = itertools.cycle(inputs[:, None])

    def take() -> None:
        for pixels in itertools.islice(images, BLOCK):
            answer(pixels)

    return take


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Print the table of files and return the ratios."""
    with tempfile.TemporaryDirectory() as place:
        folder, teacher = Path(place), None
        if arguments.run:
            run = reopen(arguments.run, arguments.images or None)
            road, student, side = run.road("cpu"), run.student.module, run.input
        else:
            road, student, teacher = train(arguments.images, arguments.stem, folder)
            side = road.input
        files = our_files(student, teacher, road, side, folder)
        signature: Signature = open_graph(files["fp32"])[1]
        source = road.scored
        assert source is not None
        into = signature.preprocessing.to_input
        views = into(calibrating(road).pixels).numpy()
        inputs = np.concatenate([into(part).numpy() for part in batches(road.pixels(source), road.view)])
        files |= default_files(files["fp32"], views)
        answers = {name: onnx_answer(file) for name, file in files.items()}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        others, more = openvino_answers(files["fp32"], views)
        answers |= others
        sizes |= more
        for name, file in (ported(arguments.run, folder) if arguments.run else {}).items():
            answers[name], sizes[name] = open_file(file).run, size_of(file)
        medians = alternate({name: block(one, inputs) for name, one in answers.items()}, arguments.seconds)
        given = {name: np.concatenate([one(x) for x in inputs[:, None]]).argmax(1) for name, one in answers.items()}
    latency = {name: seconds / BLOCK for name, seconds in medians.items()}
    accuracy = {name: float((one == source.targets).mean()) for name, one in given.items()}
    agreement = {name: float((one == given["fp32"]).mean()) for name, one in given.items()}
    rows = [(name, 100 * accuracy[name], 100 * agreement[name], sizes[name], 1000 * latency[name]) for name in answers]
    print(f"{len(source):,} test images of {road.dataset.name}, {side[0]} px, batch 1, one thread of each runtime")
    print_table(("file", "accuracy %", "as fp32 answers %", "bytes", "ms"), rows)
    return ratios(latency, sizes, accuracy, agreement)


def ratios(
    latency: dict[str, float], sizes: dict[str, int], accuracy: dict[str, float], agreement: dict[str, float]
) -> dict[str, float]:
    """Return the keys of the JSON line; each argument is by name of the file."""
    found: dict[str, float] = {}

    def over(key: str, one: str, other: str) -> None:
        if other in sizes:
            found[f"latency_over_{key}"] = latency[one] / latency[other]
            found[f"size_over_{key}"] = sizes[one] / sizes[other]

    over("default", "ours", "default")
    over("static_default", "ours static", "default static")
    over("fp32", "ours", "fp32")
    over("teacher", "ours", "teacher fp32")
    over("teacher_int8", "ours", "teacher int8")
    over("openvino_default", "ours", "openvino default")
    quantized = [name for name in sizes if "fp32" not in name and "teacher" not in name]
    drops = {name: 100 * (accuracy["fp32"] - accuracy[name]) for name in quantized}
    for name in quantized:
        key = name.replace(" ", "_")
        found |= {f"agreement_{key}": agreement[name], f"drop_{key}": drops[name]}
    ours = [drops["ours"], drops["ours static"]]
    return found | {"worst_drop": max(ours), "median_drop": statistics.median(ours)}


if __name__ == "__main__":
    run(measure, __doc__, seconds=20.0, images="", run="", stem="conv")
