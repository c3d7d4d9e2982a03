"""Networks that transformers saved, in a folder or on the hub: told by their config.json, opened by transformers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from ..errors import PocketError
from ..models.hub import explain, hub
from ..models.inputs import NORMS

Kind = Literal["ObjectDetection", "ImageClassification"]
_SIDE = 224  # of the picture where neither the processor nor the network says it


def kind_saved(spec: str) -> Kind | None:
    """Return what a folder (or ``local-dir:`` or ``hf-hub:``) of transformers holds; None of anything else."""
    prefix, _, place = spec.rpartition(":")
    path = Path(place).expanduser() / "config.json"
    try:
        if prefix in ("hf-hub", "hf_hub"):
            with hub():
                path = Path(hf_hub_download(place, "config.json"))
        config = json.loads(path.read_text("utf-8"))
    except Exception:  # no such file, or whatever the hub's client and its transport raise: loading will say it
        return None
    made = config.get("architectures") if isinstance(config, dict) else None
    kinds: tuple[Kind, ...] = get_args(Kind)
    return next((kind for kind in kinds for one in made or () if str(one).endswith(f"For{kind}")), None)


def open_saved(spec: str, kind: Kind) -> tuple[str, nn.Module, dict[str, Any]]:
    """Return the name of a network, the network, and what its image processor says of its input (see `processor_of`).

    Raises:
        PocketError: transformers is not installed, or cannot load it.
    """
    try:
        import transformers
    except ImportError as error:
        raise PocketError(
            f"{spec} was saved by transformers, which is not installed: pip install 'pocketvit[detectors]'."
        ) from error
    place = spec.rpartition(":")[2]
    local = Path(place).expanduser().is_dir()
    place = str(Path(place).expanduser()) if local else place
    with hub() as reachable, _quiet():
        try:
            module = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(place, local_files_only=local)
        except Exception as error:  # the hub's client, its transport and transformers each raise their own
            if local:
                first = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise PocketError(f"{spec} cannot be loaded by transformers ({first[:200]}).") from error
            raise PocketError(explain(spec, reachable, error)) from error
    return place.rstrip("/").rsplit("/", 1)[-1], module, processor_of(Path(place) if local else place)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show no bar for weights that are read in a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def processor_of(place: Path | str) -> dict[str, Any]:
    """Size and normalization by ``preprocessor_config.json`` in a folder or on the hub; {} where that says nothing."""
    name = "preprocessor_config.json"
    try:
        if isinstance(place, Path):
            path = place / name
        else:
            with hub():
                path = Path(hf_hub_download(place, name))
        config = json.loads(path.read_text(encoding="utf-8"))
    except Exception:  # no such file, or whatever the hub's client and its transport raise: what is assumed is said
        return {}
    found: dict[str, Any] = {}
    size = (config.get("do_center_crop") and config.get("crop_size")) or config.get("size")
    sides = [size] if isinstance(size, int) else list(size.values()) if isinstance(size, dict) else []
    if sides and all(isinstance(side, int) for side in sides):
        found["input_size"] = min(sides)
    if config.get("do_normalize") is False:
        found["norm"] = NORMS["none"]
    elif config.get("image_mean") and config.get("image_std"):
        found["norm"] = (tuple(config["image_mean"]), tuple(config["image_std"]))
    return found


class Classifier(nn.Module):
    """A classifier of transformers that answers its logits [B, C], and says what it is fed as timm's networks do."""

    def __init__(self, network: Any, about: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.config = network, network.config
        self.num_classes = int(network.config.num_labels)
        side = about.get("input_size") or getattr(network.config, "image_size", None) or _SIDE
        self.pretrained_cfg = {"input_size": (3, side, side)} if about or hasattr(network.config, "image_size") else {}
        if "norm" in about:
            self.pretrained_cfg |= dict(zip(("mean", "std"), about["norm"], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of normalized pictures [B, 3, S, S]."""
        logits: Tensor = self.network(x).logits
        return logits


def open_classifier(spec: str) -> tuple[str, Classifier]:
    """Return the name of a classifier of transformers, and the classifier; see `open_saved`."""
    name, network, about = open_saved(spec, "ImageClassification")
    return name, Classifier(network, about).eval()
