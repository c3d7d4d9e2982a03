"""A statistics card: means and variances of what a teacher's layers are fed by its training images, in one file.

BatchNorm keeps such moments in the network; LayerNorm and GroupNorm keep none, and inversion without them has little to
hold on to. A card holds them beside the network, for whoever may not keep images but may keep sums over many. They say
something of the data: what is made with a card is statistics-assisted, never data-free.

The file is safetensors: ``LAYER.mean`` and ``LAYER.var`` are float32 [C], or [1 + P, C] where the P tokens of a ViT
that stand for no patch have rows of their own; its metadata hold the rest as JSON.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load, save_file
from torch import Tensor, nn

from ..errors import PocketError
from ..files import atomic
from ..teachers import Teacher
from .statistics import Inputs, Moments, channelled, kept_moments, moments_of, norm_layers

FILE = "statistics.safetensors"
LEAST = 100  # images: the moments of fewer describe single ones, and no card is made or read
FEW = 1000  # images: of fewer it is made with a warning
_KEY, _FORMAT = "pocketvit.statistics", 1


@dataclass(frozen=True)
class StatisticsCard:
    """Moments of a network's layers, and of what they are.

    Attributes:
        moments: By module path; see `Moments`.
        images: That they were taken over.
        teacher: Its name.
        weights: SHA-256 of its weights, as `Teacher.fingerprint` has it.
        date: When, as 2026-11-29.
    """

    moments: Mapping[str, Moments]
    images: int
    teacher: str
    weights: str
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())

    @property
    def words(self) -> str:
        """What it holds."""
        held = f"moments of {len(self.moments)} layers over {self.images:,} training images"
        return f"{held} (a statistics card of {self.date})"

    @property
    def record(self) -> dict[str, Any]:
        """What a bank made with it says of it."""
        held = {"layers": len(self.moments), "date": self.date, "weights": self.weights}
        return {"statistics": {"statistics_images": self.images, "sha256": _digest(self._tensors()), **held}}

    def _tensors(self) -> dict[str, Tensor]:
        pairs = (
            (f"{path}.{name}", getattr(one, name)) for path, one in self.moments.items() for name in ("mean", "var")
        )
        return {name: tensor.detach().cpu().float().contiguous() for name, tensor in pairs}

    def write(self, path: Path) -> None:
        """Write the file; a kill leaves none of it."""
        tensors = self._tensors()
        about = {"format": _FORMAT, "images": self.images, "teacher": self.teacher, "weights": self.weights}
        about |= {"date": self.date, "layers": list(self.moments), "sha256": _digest(tensors)}
        with atomic(path) as temporary:
            save_file(tensors, temporary, {_KEY: json.dumps(about)})

    def check(self, teacher: Teacher) -> None:
        """Refuse a teacher that it is not of.

        Raises:
            PocketError: Weights, layers or their widths are others.
        """
        own = teacher.fingerprint["weights"]
        if own != self.weights:
            raise PocketError(
                f"the statistics card is of {self.teacher} with weights {self.weights[:12]}, and {teacher.name} has "
                f"{own[:12]}. Give the card that was saved with it (`pocketvit train ... --statistics-card`), or none."
            )
        known = _layers(teacher.module)
        prefix = int(getattr(teacher.module, "num_prefix_tokens", 0))
        for path, moments in self.moments.items():
            width = _width(known[path]) if path in known else None
            if width is None or moments.mean.shape not in ((width,), (1 + prefix, width)):
                has = "has no such normalization" if width is None else f"has {width} channels there"
                raise PocketError(
                    f"the statistics card describes other layers: {path} of {list(moments.mean.shape)}, and "
                    f"{teacher.name} {has}. Measure it again: `pocketvit train ... --statistics-card`."
                )


def read_card(path: Path | str) -> StatisticsCard:
    """Read a card.

    Raises:
        PocketError: There is none, it is damaged, or it describes too few images.
    """
    path = Path(path)
    again = "Copy it again, or measure it anew: `pocketvit train ... --statistics-card`."
    try:
        data = path.read_bytes()
        with safetensors.safe_open(path, "pt") as file:
            kept = (file.metadata() or {}).get(_KEY)
        if kept is None:
            raise PocketError(f"{path} is no statistics card. Give the {FILE} that a training saved.")
        tensors, about = load(data), json.loads(kept)
        moments = {name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.var"]) for name in about["layers"]}
        card = StatisticsCard(moments, int(about["images"]), about["teacher"], about["weights"], about["date"])
    except OSError as error:
        raise PocketError(f"there is no statistics card at {path} ({error.strerror}). {again}") from error
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise PocketError(f"{path} is damaged or no statistics card ({error}). {again}") from error
    if about.get("sha256") != _digest(tensors) or not moments:
        raise PocketError(f"{path} is damaged: its checksum is wrong. {again}")
    require_many(card.images, f"the statistics card {path}")
    return card


def require_many(images: int, what: str) -> None:
    """Refuse moments of so few images that they describe single ones."""
    if images < LEAST:
        raise PocketError(
            f"{what} is of {images} images: means and variances of fewer than {LEAST} describe single ones. Take them "
            "over more images, or leave the card away."
        )


def why_no_card(module: nn.Module) -> str:
    """Say why a card of a network would be of no use; "" where it is."""
    if norm_layers(module):
        return ""
    kept = len(kept_moments(module))
    return f"it keeps the moments of its {kept} BatchNorm layers itself" if kept else "it has no normalization layers"


def measure_card(teacher: Teacher, batches: Iterable[Tensor], images: int) -> StatisticsCard:
    """Take the moments of every normalization layer's input over images, in one pass.

    Args:
        teacher: Whose layers are listened to.
        batches: uint8 [B, 3, S, S], as the network sees images when it is used.
        images: That they show, which tiles and patients make fewer than pictures.

    Raises:
        PocketError: Too few images, or `why_no_card`.
    """
    require_many(images, "a statistics card")
    module = teacher.module
    if why_no_card(module):
        raise PocketError(f"no statistics card of {teacher.name}: {why_no_card(module)}. Leave it away.")
    layers = _layers(module)
    apart = int(getattr(module, "num_prefix_tokens", 0))
    count, sums = 0, dict[str, tuple[Tensor, Tensor]]()
    inputs = Inputs(module, layers)
    try:
        for pixels in batches:
            teacher.logits(pixels)
            count += len(pixels)
            for path, first, second in _raw(inputs.take(), layers, apart):
                before = sums.get(path, (0.0, 0.0))
                sums[path] = before[0] + len(pixels) * first, before[1] + len(pixels) * second
    finally:
        inputs.remove()
    moments = {
        path: Moments((first / count).float(), (second / count - (first / count) ** 2).clamp_min(0).float())
        for path, (first, second) in sums.items()
    }
    return StatisticsCard(moments, images, teacher.name, teacher.fingerprint["weights"])


def _raw(
    seen: Mapping[str, Tensor], layers: Mapping[str, nn.Module], apart: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield path, mean and mean square of a batch, float64, so that batches can be added."""
    for path, x in seen.items():
        found = moments_of(channelled(layers[path], x), apart if x.ndim == 3 else 0)
        mean, var = found.mean.double().cpu(), found.var.double().cpu()
        yield path, mean, var + mean**2


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Return all normalization layers by path, those that keep moments too."""
    paths = {*norm_layers(module), *kept_moments(module)}
    return {path: layer for path, layer in module.named_modules() if path in paths}


def _width(layer: nn.Module) -> int:
    """Return how many channels a normalization layer is fed."""
    shape = getattr(layer, "normalized_shape", None)
    return int(shape[-1] if shape is not None else getattr(layer, "num_channels", getattr(layer, "num_features", 0)))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {list(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].float().contiguous().numpy().tobytes())
    return digest.hexdigest()
