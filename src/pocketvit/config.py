"""Small frozen dataclasses: what a view, a loss, a network, a training depend on, and so what a number depends on.

The settings of a verb come down to them (`road.decide`); recipes make them by hand. Fields at their default stay out of
fingerprints (`changed`), so that a new option never orphans an old store.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

Resample = Literal["lanczos", "bicubic", "bilinear", "nearest"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Stem = Literal["patch", "hybrid", "conv", "teacher", "shifted", "summed", "concatenated", "coadvise"]
Attention = Literal["plain", "local"]
DetectorKind = Literal["fcos", "detr"]


@dataclass(frozen=True)
class ViewConfig:
    """What a network sees of an image: how it is brought to ``view_size`` and how it is augmented.

    Probabilities lie in [0, 1]; lengths are in pixels of the view unless said otherwise.
    """

    view_size: int = 224  # side of the square uint8 view that is rendered
    resample: Resample = "lanczos"
    lobes: int = 5  # of the Lanczos kernel; 3 is Pillow's
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how other shapes become square where nothing is random
    crop: Literal["none", "padded", "random_resized", "zoom"] = "none"
    crop_padding: int = 4  # padded crop: zeros added on each side at view_size
    crop_scale: tuple[float, float] = (0.35, 1.0)  # random resized crop: share of the area
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # and its width / height
    zoom: tuple[float, float] = (0.5, 1.5)  # zoom: the whole picture, padded to a square, enlarged by this; its place
    flip: float = 0.0  # probability of a horizontal flip
    vertical_flip: float = 0.0
    transpose: float = 0.0  # probability that rows and columns change places: with both flips, all eight positions
    randaugment_ops: int = 0  # operations a view (0: off)
    randaugment_magnitude: float = 9.0  # of 10, as timm's "rand-m9"
    randaugment_set: Literal["all", "gentle"] = "all"  # gentle: none that inverts, cuts or recolours intensities
    color_jitter: float = 0.0  # brightness, contrast and saturation by 1 +- this
    stain_jitter: float = 0.0  # amounts of the stains of histology by 1 +- this
    erase: float = 0.0  # probability of random erasing
    mixup: float = 0.0  # alpha of the Beta distribution (0: off)
    cutmix: float = 0.0  # alpha of the Beta distribution (0: off)
    mix: float = 1.0  # share of the pairs that are mixed, where mixup or cutmix are on

    @property
    def mixes(self) -> bool:
        """Whether views are made of two images."""
        return self.mixup > 0 or self.cutmix > 0

    def plain(self) -> ViewConfig:
        """The same geometry with nothing random: what validation, test and prediction see."""
        keep = ("view_size", "resample", "lobes", "fit")
        return ViewConfig(**{name: getattr(self, name) for name in keep})


@dataclass(frozen=True)
class TermConfig:
    """One thing to match besides the teachers' answers: an objective on features, see `objectives.terms`."""

    objective: str = ""
    weight: float = 1.0
    student: str = ""  # layers by module path or timm's feature names, several by commas; empty: chosen
    teacher: str = ""


@dataclass(frozen=True)
class LossConfig:
    """What a student is asked to match, and how much each part weighs."""

    objective: str = "zscore"  # kl | hard | zscore | dkd | dist
    temperature: float = 2.0
    last_temperature: float | None = None  # reached by a cosine at the end of the training; None: the same throughout
    weight: float = 0.9  # share of the teachers; the rest is cross-entropy on ground-truth labels
    teacher_weights: Literal["fixed", "confidence", "agreement", "per_class", "learned"] = "fixed"
    hard_share: float = 0.0  # of the epochs, in the middle: by the ground truth alone, in views without soft labels
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # of the ground truth's part, one a class; empty: all alike
    terms: tuple[TermConfig, ...] = ()  # added to the rest, each by its weight


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained. One epoch shows every training image once."""

    epochs: int = 30
    seconds: float = 0.0  # a budget of time in place of the epochs (0: none)
    batch_size: int = 128  # over all processes, before accumulation
    optimizer: Literal["muon", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3  # at the end of warm-up, for the given batch size; Muon wants about 5e-3
    weight_decay: float = 0.05  # not on biases, norms, positions and tokens
    momentum: float = 0.9  # SGD only
    schedule: Literal["cosine", "wsd"] = "cosine"  # after warm-up: see training.schedule
    warmup: float = 0.07  # share of the steps, below 1
    clip: float = 1.0  # maximum gradient norm (0: off)
    accumulate: int = 1  # batches a step
    ema: float = 0.0  # decay a step of the weight average that is evaluated (0: off)
    drop_path: float = 0.0
    progressive: float = 0.0  # share of the run, its beginning, in smaller pictures: see training.progressive
    balance: Literal["none", "sampling", "weights"] = "none"  # of classes of unequal size
    precision: Precision = "auto"  # "auto" is resolved by a measurement and written down
    compile: bool = False
    seed: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """Which network is made."""

    name: str = "pocket_s"  # a size of the ladder, or any model of timm
    patch: int | None = None  # side of a patch in pixels; None: by the view's size
    tokens: int = 0  # distillation tokens: 0, 1, or one per teacher
    stem: Stem = "patch"  # how pictures become tokens
    attention: Attention = "plain"  # or "local": see models.local_attention
    replace_norm: str | None = None  # what takes the place of BatchNorm, of models.norms.Norm; None: as it is
    detector: DetectorKind = "fcos"  # of images with boxes: answers on a grid, or a set (LW-DETR)
    init_from: str | None = None  # "teacher", or weights of a larger ViT: see models.selection; None: from scratch
    cut: dict[str, Any] | None = None  # whose first layers the stem "teacher" is: see models.teacher_stem


@dataclass(frozen=True)
class LabelConfig:
    """Which soft labels are stored."""

    views: int = 10  # per image (V); epoch e uses view e mod V
    top_k: int | None = None  # None: all logits up to 256 classes, else 100; 0: all
    approximate_tail: bool = False
    store_features: str | None = None  # size within which the features of terms are stored; None: live teachers


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a trained network: what the settings of a verb, or a recipe, come down to."""

    network: NetworkConfig = NetworkConfig()
    view: ViewConfig = ViewConfig()
    labels: LabelConfig = LabelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()


def changed(config: Any) -> dict[str, Any]:
    """Return the fields of a config dataclass that differ from their default, as JSON-like values."""
    result = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            result[field.name] = list(value) if isinstance(value, tuple) else value
    return result
