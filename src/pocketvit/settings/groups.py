"""The groups of settings that verbs combine; what only one verb has is said in `verbs`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from ..config import Attention, DetectorKind, Precision, Resample
from ..errors import PocketError
from .base import ImageSet, Settings, setting
from .values import (
    Hours,
    Method,
    parse_hours,
    read_device,
    read_hours,
    read_name,
    read_window,
)

Stem = Literal["auto", "patch", "hybrid", "conv", "teacher", "shifted", "summed", "concatenated", "coadvise"]
Augment = Literal["auto", "none", "light", "medium", "strong", "hard"]
Modality = Literal["photo", "xray", "ct", "ultrasound", "oct", "fundus", "microscopy", "histology", "dermatoscopy"]
BUILT_IN = ("digits", "scenes")
IMAGES = "a folder of images, a .npz or .csv file, or 'digits'"


class Reading(Settings, group="images"):
    """How images are read."""

    table: str | Path | None = setting(
        "CSV file of file names and labels of the images in a folder",
        default=None, metavar="FILE", exists="a CSV file", regular=True, common=True, was="labels",
    )  # fmt: skip
    window: str | tuple[float, float] | None = setting(
        "intensities that become black and white in images that are not 8-bit",
        default=None, metavar="LOW,HIGH", read=read_window,
    )  # fmt: skip


class Images(Reading, group="images"):
    """Where images come from, and how they are divided."""

    images: ImageSet | None = setting(
        '"digits", a folder (class/name.jpg, or train/val/test folders of that), a .npz or .csv file',
        default=None, kw_only=False, exists=IMAGES, besides=BUILT_IN, common=True,
    )  # fmt: skip
    val: ImageSet | None = setting("images to validate on", default=None, exists=IMAGES, besides=BUILT_IN)
    test: ImageSet | None = setting(
        "images to test on, which nothing else sees", default=None, exists=IMAGES, besides=BUILT_IN
    )
    group: str | None = setting(
        "column of the table, as patient, whose images stay on one side of every split", default=None, metavar="COLUMN"
    )
    tile: int | None = setting(
        "cut large images into squares of this many pixels; figures are per image", default=None, low=8, high=16_384
    )

    def require_images(self) -> None:
        """Refuse to start without images."""
        if self.images is None:
            resume = " (or go on with a run: --resume RUN)" if hasattr(self, "resume") else ""
            raise PocketError(f"name the images, as in `pocketvit {self.verb} photos/`{resume}.")

    def look(self) -> None:
        self.require_images()
        super().look()


class Views(Settings, group="views"):
    """What a network sees of an image."""

    size: int | None = setting(
        "side of the views in pixels; by default the images' own up to 64, then up to 224",
        default=None, low=4, high=1024, common=True,
    )  # fmt: skip
    augment: Augment = setting(
        "how much views vary; strong adds Mixup and CutMix, hard crops a quarter as well; auto is light for short "
        "trainings, medium for long ones, hard for synthetic images",
        default="auto", common=True,
    )  # fmt: skip
    flip: bool | None = setting(
        "mirrored views; by default unless the kind of images forbids it, or classes seem to change places in the "
        "mirror (switch off where left and right matter, as in digits)", default=None,
    )  # fmt: skip
    vertical_flip: bool | None = setting(
        "upside-down views; by default only where the kind of images has no up and down", default=None
    )
    modality: Modality | None = setting(
        "kind of images, which decides what augmentation may do without changing their label; by default that of a "
        "known MedMNIST file, else photo", default=None,
    )  # fmt: skip
    resample: Resample = setting("how images are brought to the view's size; lanczos has 5 lobes", default="lanczos")
    aspect: Literal["auto", "crop", "pad", "stretch"] = setting(
        "how other shapes become square: the middle cut out, black borders, or stretched; auto is crop, and stretch "
        "where images are twice as long as wide or longer", default="auto",
    )  # fmt: skip


class Labels(Settings, group="labels"):
    """Which soft labels are stored."""

    views: int | None = setting(
        "augmented views stored per image; epoch e uses view e mod V; by default at most 10",
        default=None, low=1, high=10_000,
    )  # fmt: skip
    top_k: int | None = setting(
        "logits stored per record; by default all up to 256 classes, then 100; 0 is all",
        default=None,
        low=0,
        high=65_536,
    )


class Architecture(Settings, group="student"):
    """The shape of a ViT that is trained."""

    patch: int | None = setting("side of the student's patches in pixels", default=None, low=1, high=1024)
    tokens: int = setting("distillation tokens of the student: 0, 1, or one per teacher", default=0, low=0, high=64)
    stem: Stem = setting(
        "how the student cuts pictures up: plain patches; hybrid, a convolution before them (stock timm); conv, "
        "residual convolutions before them; teacher, the first layers of a convolutional teacher, as they are (the "
        "default where these are light, not in compare; else conv to 64 pixels, hybrid above); shifted ones (of the "
        "picture and its four half-patch shifts), both summed, or both concatenated; coadvise, with --tokens 2, puts a "
        "convolution and an involution before its patches, one for each teacher's token", default="auto",
    )  # fmt: skip
    attention: Attention = setting(
        "of the student; local has a learned temperature per head, and no token looks at itself", default="plain"
    )
    detector: DetectorKind = setting(
        "what finds boxes on the student: fcos, at every place of a grid; or detr, a set of them, by the decoder of "
        "LW-DETR (pip install 'pocketvit[detectors]'; a step takes several times as long)", default="fcos",
    )  # fmt: skip
    init_from: str | Path | None = setting(
        "start the student from evenly spaced layers and channels of this larger ViT: teacher, for the first one, or "
        "weights as --teacher takes them; none is from scratch; by default the teacher, where it is a ViT at least "
        "as large, of the same stem or one that images are made from (not in compare)", default=None, metavar="NAME",
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.stem == "coadvise" and self.tokens != 2:
            raise self.refused("stem", "it starts the tokens of two teachers, a convolutional one and then one of "
                               "involution. Give --tokens 2 with it")  # fmt: skip


class Objective(Settings, group="objective"):
    """What the student learns from the teachers' answers."""

    temperature: float | None = setting(
        "of the objective; by default 2, or 1 where only the top logits are stored or images have several labels",
        default=None, above=0,
    )  # fmt: skip
    teacher_share: float = setting("weight of the teachers beside the ground truth", default=0.9, low=0, high=1)
    teacher_weights: Literal["auto", "fixed", "confidence", "agreement", "per_class", "learned"] = setting(
        "how several teachers are weighed for each image: equally (fixed), by confidence, by agreement with the "
        "others, by validation accuracy on the class, or by a gate fitted on the validation split (learned); auto is "
        "the gate where 100 labelled validation images fit it (not in compare), else fixed", default="auto",
    )  # fmt: skip
    approximate_tail: bool = setting(
        "let objectives that need all logits use top-k labels with an approximated rest", default=False
    )


class Synthesis(Settings, group="data-free"):
    """How images are made out of a teacher."""

    data: ImageSet | None = setting("a few real images to use too; their labels are not looked at", default=None,
                                    exists=IMAGES, besides=BUILT_IN, common=True)  # fmt: skip
    method: Method = setting(
        "how images are made: drawn, chosen by the teacher, moved to classes it hardly sees (auto); these optimized "
        "(inverted; auto of detectors); generated by a network that learns to; or noise or one photograph, the "
        "controls", default="auto",
    )  # fmt: skip
    generator: Literal["conv", "transformer"] = setting(
        "of --method generated: of convolutions, or of attention", default="conv"
    )
    prune_ratio: float = setting(
        "of --method inverted from a ViT: share of the remaining patches that sparse inversion stops at each of four "
        "early steps, those with the least attention, as in 0.3; 0 is dense", default=0.0, low=0, below=1,
    )  # fmt: skip
    statistics: bool | str | Path = setting(
        "of --method inverted or generated: use means and variances of the teacher's training images, of the "
        "statistics card in its folder or of this one; the images are then statistics-assisted, not data-free",
        default=False, metavar="CARD", regular=True,
        exists="a statistics card (`pocketvit train ... --statistics-card`)",
    )  # fmt: skip
    count: int | None = setting(
        "images to make; by default 20,000 of 32 pixels, fewer of larger ones, 200 that are optimized for a detector",
        default=None, low=1, high=100_000_000, common=True,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.generator != "conv" and self.method != "generated":
            raise self.refused("generator", "other methods have none. Add --method generated")
        if self.prune_ratio and self.method != "inverted":
            raise self.refused("prune_ratio", "other methods optimize no patches. Add --method inverted")
        if self.statistics and self.method not in ("inverted", "generated"):
            raise self.refused("statistics", "other methods ask for no statistics. Add --method inverted or generated")


class Steps(Settings, group="training"):
    """How weights are found."""

    epochs: int | None = setting(
        "passes over the training images; by default about 250,000 images of 32 px are seen, fewer of larger ones, in "
        "5 to 200 epochs, a third more with --progressive; 10 where the weights are pretrained",
        default=None, low=1, high=1_000_000, common=True,
    )  # fmt: skip
    batch_size: int | None = setting("images per batch", default=None, low=1, high=1_048_576)
    lr: float | None = setting(
        "learning rate; by default 0.005 with muon and 0.0003 for pretrained weights in batches of 64, 0.001 with "
        "adamw in batches of 128, by the square root of the batch", default=None, above=0,
    )  # fmt: skip
    optimizer: Literal["auto", "muon", "adamw", "sgd"] = setting(
        "of the weights; auto is muon from scratch and adamw for what was trained before", default="auto"
    )
    ema: float = setting(
        "decay per step of the weight average that is evaluated; 0 is off", default=0.0, low=0, below=1
    )
    accumulate: int = setting("batches per step", default=1, low=1, high=65_536)
    precision: Precision = setting("of training; auto is measured once", default="auto")
    compile: bool = setting("use torch.compile", default=False)


class Training(Steps, group="training"):
    """How one network is trained."""

    hours: str | float | None = setting(
        "end after this time, as 0.5 or 30min: all of the command, from the images to the report; with --resume, +0.5 "
        "gives a finished run so much more",
        default=None, metavar="X", read=read_hours, common=True, compared=False,
    )  # fmt: skip
    balance: Literal["none", "sampling", "weights"] = setting(
        "of classes of unequal size: show every class equally often (where images are mixed, as nearly as pairs of a "
        "rare and a common one allow), or weigh its ground truth accordingly",
        default="none",
    )  # fmt: skip
    progressive: float | None = setting(
        "share of the steps, the first ones, in pictures of three quarters of the side, which take half the time "
        "(progressive resizing); by default 0.6 for pocket_ students of up to 64 px, unless --epochs are named",
        default=None, low=0, high=1, metavar="SHARE",
    )  # fmt: skip
    seed: int = setting("of everything random but the stored views", default=0, low=0, high=2**63 - 1)

    @property
    def time(self) -> Hours | None:
        """The time budget."""
        return None if self.hours is None else parse_hours(self.hours)

    def check_given(self, given: Collection[str]) -> None:
        super().check_given(given)
        both = None not in (self.hours, self.epochs) and {"hours", "epochs"} <= set(given)
        if both and not getattr(self, "resume", False):  # a run that goes on was given them
            raise self.refused("hours", f"--epochs {self.epochs} is another length. Leave one of the two away")

    def look(self) -> None:
        super().look()
        if self.time is not None and self.time.more and not getattr(self, "resume", False):
            raise self.refused("hours", "only a run that goes on can be given more. Add --resume, or leave the + away")


class Evidence(Settings, group="evidence"):
    """What stands beside a student in its table."""

    baseline: bool = setting("also train the same student without a teacher", default=True)
    against: str | None = setting(
        "also fine-tune this pretrained timm model for as many epochs, as in mobilenetv3_small_100",
        default=None, metavar="NAME",
    )  # fmt: skip
    folds: int | None = setting(
        "also train a student per fold, so that every image is tested by one that never saw it; by default 5 where "
        "there are fewer than 500 labelled images without a split of their own and it takes up to five minutes; 0 is "
        "none", default=None, low=0, high=1000,
    )  # fmt: skip
    few_labels: int = setting(
        "show students only so many labels, dealt over the classes (the teachers learn from all); 0 is all",
        default=0, low=0, high=1_000_000_000,
    )  # fmt: skip

    def check(self) -> None:
        super().check()
        if self.folds == 1:
            raise self.refused("folds", "one fold leaves nothing to learn from. Give at least 2, or 0 for none")


class Place(Settings, group="output"):
    """Where results go."""

    out: str | Path = setting("the folder of runs", default="runs", metavar="FOLDER", compared=False)


class Pictures(Settings, group="output"):
    """What reports may show."""

    no_images: bool = setting("leave every picture of the data out of the report", default=False, compared=False)


class Device(Settings, group="output"):
    """Where it is computed."""

    device: str | None = setting(
        "cpu or cuda; by default cuda where there is one", default=None, read=read_device, compared=False
    )


class Output(Place, Pictures, Device, group="output"):
    """What becomes of a run."""

    name: str | None = setting(
        "of the run; by default that of the images", default=None, read=read_name, metavar="NAME", common=True,
        compared=False,
    )  # fmt: skip


class Resumable(Settings, group="output"):
    """Going on where a run stopped."""

    resume: bool | str | Path = setting(
        "go on with the last run of this name, or with the named run folder, to the result of an unbroken one",
        default=False, metavar="RUN", exists="a run folder (`ls runs/`)", common=True, saved=False,
    )  # fmt: skip
