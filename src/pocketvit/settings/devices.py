"""The settings of the verbs behind the training: a smaller student, its files, what they answer, cost and show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import PocketError
from .base import ImageSet, Model, Picture, RunFolder, Settings, find, listed, setting
from .groups import BUILT_IN, IMAGES, Device, Pictures, Reading, Resumable
from .teachers import Loading, check_model
from .values import (
    Budget,
    parse_budget,
    read_budget,
    read_host,
    read_name,
    read_names,
    read_picture,
    read_window,
)


class Compress(Pictures, Device, Resumable, verb="compress"):
    """Make a student smaller - pruned, weight-multiplexed, quantized - and recover it from its stored labels.

    No teacher is loaded: the labels that the run learned from are read again. The new run lies beside the old one, with
    a row for each in its table, and may be compressed again.
    """

    model: Model = setting("a run folder", kw_only=False, exists="a run folder (`ls runs/`)")
    prune: float | None = setting(
        "share of the parameters to take away: token width, heads, MLPs", default=None, above=0, below=1, common=True
    )
    share: int | None = setting(
        "let so many consecutive blocks share their linear layers", default=None, low=2, high=64, common=True
    )
    quantize: Literal["none", "dynamic", "static", "qat"] = setting(
        "how the int8 file is made: scales of activations found while it runs (none: the same), calibrated scales "
        "(QDQ, which accelerators take), or trained with the rounding", default="none", common=True,
    )  # fmt: skip
    bits: int = setting(
        "of the weights, with --quantize qat: 8 (products use 7 of them), 4 or 2", default=8, low=2, high=8
    )
    fit: str | None = setting(
        "until the int8 file fits - a size, a time on this machine, or both: pruned, shared, or in 4 bits, whichever "
        "answers best after a brief recovery (--share and --quantize settle their part)",
        default=None, read=read_budget, metavar="3MB,20ms", common=True, was="target",
    )  # fmt: skip
    recover: bool = setting("train it again, from the stored labels of its run", default=True, common=True)
    epochs: int | None = setting(
        "of recovery; by default half of the first training's, a quarter with --quantize qat alone",
        default=None, low=1, high=1_000_000, common=True,
    )  # fmt: skip
    lr: float | None = setting(
        "learning rate of recovery; by default half of the first training's, a tenth with --quantize qat alone",
        default=None, above=0,
    )  # fmt: skip
    max_drop: float = setting(
        "points that the int8 file may lose to its fp32 form on validation images: layers that cost more stay fp32",
        default=0.5, low=0, high=100, common=True, compared=False,
    )  # fmt: skip
    images: ImageSet | None = setting(
        "where the run's images are now, if they have moved",
        default=None, exists=IMAGES, besides=BUILT_IN, compared=False,
    )  # fmt: skip
    name: str | None = setting(
        "of the new run; by default that of the old one, and what was done to it", default=None, read=read_name,
        metavar="NAME", common=True, compared=False, group="output",
    )  # fmt: skip
    out: str | Path | None = setting(
        "the folder of runs; by default that of the run", default=None, metavar="FOLDER", compared=False, group="output"
    )

    @property
    def budget(self) -> Budget | None:
        """What the device allows."""
        return None if self.fit is None else parse_budget(self.fit)

    @property
    def tag(self) -> str:
        """What stands in the new run's name behind that of the old one."""
        parts = [
            "fit" if self.fit else "pruned" if self.prune else "",
            f"shared{self.share}" if self.share else "",
            f"qat{self.bits}" if self.quantize == "qat" else self.quantize if self.quantize != "none" else "",
        ]
        return "-".join(filter(None, parts))

    def check(self) -> None:
        super().check()
        if self.prune is not None and self.fit is not None:
            raise self.refused("fit", "it finds by itself how much to prune. Leave --prune away")
        if self.bits not in (2, 4, 8):
            raise self.refused("bits", "give 8, 4 or 2")
        if self.bits != 8 and self.quantize != "qat":
            raise self.refused("bits", "so few bits have to be trained. Add --quantize qat")
        if self.quantize == "qat" and not self.recover:
            raise self.refused("quantize", "qat is training. Leave --no-recover away, or take static")
        if not self.recover and (self.epochs is not None or self.lr is not None):
            raise PocketError("--epochs and --lr are those of recovery, and --no-recover was given.")
        for name in ("epochs", "lr"):
            trains = self.quantize == "qat" or self.prune or self.share or self.fit
            if getattr(self, name) is not None and not trains:
                raise self.refused(name, f"--quantize {self.quantize} trains nothing. Leave it away, or take qat")

    def look(self) -> None:
        super().look()
        if self.prune is None and self.share is None and self.fit is None and self.quantize == "none":
            raise PocketError("nothing to do: give --prune 0.5, --share 2, --fit 1MB or --quantize static.")


class Export(Loading, verb="export"):
    """Export any model to ONNX, fp32 and int8, check both against the original, and pack device.zip.

    --target web makes a folder for a static web server, with a page that runs the model in the browser; --target phone
    int8 with scales calibrated on a run's images, for one picture at a time, as accelerators of phones ask for. The
    names of other runtimes make their files, each checked under that runtime; their tools are installed by themselves.
    """

    model: Model = setting(
        "a run or student folder, a timm name, hf-hub:NAME, a weights file (with --arch), MODULE:FUNCTION",
        kw_only=False,
    )
    target: Literal["cpu", "phone", "web", "openvino", "executorch", "litert", "coreml"] = setting(
        "what the files are for", default="cpu", common=True
    )
    out: str | Path | None = setting(
        "the folder to write into; by default exported/NAME, or exported/NAME-TARGET",
        default=None, metavar="FOLDER", compared=False,
    )  # fmt: skip
    runtime: str | Path | None = setting(
        "where onnxruntime-web is, for --target web; by default in node_modules", default=None, metavar="FOLDER",
        exists="the dist folder of onnxruntime-web",
    )  # fmt: skip
    max_drop: float = setting(
        "points that the int8 file may lose, with --target phone: layers that cost more stay fp32; with that of a "
        "runtime too: else there is none",
        default=0.5, low=0, high=100,
    )  # fmt: skip
    images: ImageSet | None = setting(
        "where the run's images are now, if they have moved, for --target phone or a runtime's name",
        default=None, exists=IMAGES, besides=BUILT_IN, compared=False,
    )  # fmt: skip
    picture: str | None = setting(
        "size of the camera's pictures, to have resizing, normalization and softmax inside the graph",
        default=None, metavar="WIDTHxHEIGHT", read=read_picture,
    )  # fmt: skip
    classes: str | Sequence[str] | None = setting(
        "names of the outputs, with commas; by default those of the model, else numbers",
        default=(), read=read_names, metavar="NAMES",
    )  # fmt: skip

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """(height, width) of the camera's pictures."""
        if self.picture is None:
            return None
        width, height = map(int, self.picture.split("x"))
        return height, width

    def check(self) -> None:
        super().check()
        if self.target in ("cpu", "web") and self.images is not None:
            raise self.refused("images", f"--target {self.target} calibrates on none. Leave it away")
        about = ("arch", "weights", "input_size", "norm", "classes")
        if self.target == "phone" and (given := next((name for name in about if getattr(self, name)), None)):
            raise self.refused(given, "--target phone takes a run, which says it itself. Leave it away")
        if self.target in ("cpu", "web") and self.max_drop != find(Export, "max_drop").default:
            raise self.refused("max_drop", f"--target {self.target} scores on no images. Leave it away")
        if self.target != "web" and self.runtime is not None:
            raise self.refused("runtime", "it is for a page. Add --target web, or leave it away")
        if self.target != "cpu" and self.picture is not None:
            raise self.refused("picture", f"--target {self.target} takes pictures of any size. Leave it away")

    def look(self) -> None:
        super().look()
        check_model(self, "model", self.model)


class Serve(Settings, verb="serve"):
    """Show a model in the browser: a page on this machine that labels dropped pictures with onnxruntime-web."""

    model: Model = setting(
        "a run or student folder", kw_only=False, exists="a run folder (`ls runs/`) or a student folder"
    )
    host: str = setting(
        "the address it answers on: 0.0.0.0 opens the page to other devices of the network, such as a phone",
        default="127.0.0.1", metavar="ADDRESS", common=True,
    )  # fmt: skip
    port: int = setting("of the page; 0 for any that is free", default=8000, low=0, high=65_535, common=True)
    runtime: str | Path | None = setting(
        "where onnxruntime-web is; by default in node_modules", default=None, metavar="FOLDER",
        exists="the dist folder of onnxruntime-web",
    )  # fmt: skip


class Predict(Settings, verb="predict"):
    """Label images with a run, a student folder or an exported file.

    Where images have several labels, each with a probability of at least 50 % is named ("none" where there is none).
    Files that cannot be read are reported and the others go on; the exit code is then 1.
    """

    model: Model = setting(
        "a run folder (its int8 file is used), a student folder, or an exported file",
        kw_only=False, exists="a run folder, a student folder or an exported file",
    )  # fmt: skip
    images: Picture | Sequence[Picture] = setting("files, folders and videos", kw_only=False)
    window: str | tuple[float, float] | None = setting(
        "intensities that become black and white in what is not 8-bit; by default those of the run",
        default=None, metavar="LOW,HIGH", read=read_window,
    )  # fmt: skip
    save: str | Path | None = setting(
        "write the images into this folder, with the answers (boxes, labels) drawn on them",
        default=None, metavar="FOLDER", common=True,
    )  # fmt: skip
    top: int = setting(
        "how many classes to list for each image; above 1 the likeliest labels, there or not",
        default=1,
        low=1,
        high=10_000,
    )


class Bench(Reading, Loading, verb="bench"):
    """Measure models or exported files side by side: accuracy, agreement, calibration, size, FLOPs, latency, memory.

    Latencies are taken in turns in one process, batch 1, one thread. Without images only the costs are measured. --on
    copies device.zip to a device by ssh, runs its bench.py there and adds a row; nothing is left there.
    """

    models: Model | Sequence[Model] = setting(
        "run or student folders, exported files, timm names, weights files (with --arch)", kw_only=False
    )
    images: ImageSet | None = setting(
        'labelled images to score on: a folder, a .npz or .csv file, "digits"',
        default=None, exists=IMAGES, besides=BUILT_IN, group="images",
    )  # fmt: skip
    split: Literal["train", "val", "test"] = setting("of the images", default="test", group="images")
    teacher: Model | None = setting("a model whose agreement with the others is measured", default=None, metavar="NAME")
    on: str | None = setting(
        "also time runs and ONNX files on this device, which `ssh` reaches without a password; it needs python3",
        default=None, metavar="USER@DEVICE", read=read_host, common=True,
    )  # fmt: skip

    def look(self) -> None:
        super().look()
        for model in listed(self.models):
            check_model(self, "models", model)
        check_model(self, "teacher", self.teacher)


class Report(Pictures, verb="report"):
    """Write one self-contained HTML page of one run, or of several side by side, and the model card of each."""

    runs: RunFolder | Sequence[RunFolder] = setting("run folders", kw_only=False, exists="run folders (`ls runs/`)")
    device: str | Path | None = setting(
        "what `bench.py --json` of the run's device.zip printed on a device: it becomes a row of the run",
        default=None, metavar="FILE", exists="a JSON file of bench.py", common=True,
    )  # fmt: skip
    out: str | Path | None = setting(
        "the HTML file to write; by default report.html in the run folder, of several in the folder of runs",
        default=None, metavar="FILE", group="output",
    )  # fmt: skip
