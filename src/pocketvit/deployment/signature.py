"""What an exported file says about itself: classes and preprocessing, as one JSON text in its ONNX metadata.

The device's ``predict.py`` reads the same text, so that an ``.onnx`` file alone is enough to label a picture.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import StringStringEntryProto

from ..config import ViewConfig
from ..errors import PocketError

KEY = "pocketvit"
_VIEW_FIELDS = ("view_size", "resample", "lobes", "fit")


@dataclass(frozen=True)
class Signature:
    """How to feed an exported file and how to read its answer.

    With ``source_size`` the file takes uint8 pictures [B, H, W, 3] of that size and answers probabilities [B, C];
    without, it takes normalized float32 pixels [B, 3, S, S] and answers logits [B, C].
    """

    classes: tuple[str, ...]
    input_size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    view: ViewConfig = field(default_factory=ViewConfig)
    source_size: tuple[int, int] | None = None
    window: tuple[float, float] | None = None  # intensities that become 0 and 255 where a picture is not 8-bit
    tile: int | None = (
        None  # side in pixels of the squares that a picture is cut into; their probabilities are averaged
    )
    precision: Literal["fp32", "int8"] = "fp32"
    activation: Literal["softmax", "sigmoid"] = "softmax"  # sigmoid: several labels, each there or not

    @property
    def several(self) -> bool:
        """Whether the file answers several labels an image instead of one class."""
        return self.activation == "sigmoid"

    def to_json(self) -> str:
        """Return the text that is stored in the file."""
        values: dict[str, Any] = {
            "classes": list(self.classes),
            "input_size": self.input_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "view": {name: getattr(self.view, name) for name in _VIEW_FIELDS},
            "source_size": list(self.source_size) if self.source_size else None,
            "window": list(self.window) if self.window else None,
            "tile": self.tile,
            "precision": self.precision,
            "activation": self.activation,
        }
        return json.dumps(values, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        source, window = values["source_size"], values["window"]
        return cls(
            classes=tuple(values["classes"]),
            input_size=int(values["input_size"]),
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            view=ViewConfig(**{name: values["view"][name] for name in _VIEW_FIELDS}),
            source_size=(int(source[0]), int(source[1])) if source else None,
            window=(float(window[0]), float(window[1])) if window else None,
            tile=values.get("tile"),
            precision=values["precision"],
            activation=values.get("activation", "softmax"),
        )


def read_signature(model: onnx.ModelProto, path: Path | str) -> Signature:
    """Return the signature of a loaded ONNX model; ``path`` is only named in the error."""
    return parse_signature({entry.key: entry.value for entry in model.metadata_props}, path)


def parse_signature(metadata: dict[str, str], path: Path | str) -> Signature:
    """Return the signature out of a file's metadata.

    Raises:
        PocketError: the file was not exported by PocketViT.
    """
    if KEY not in metadata:
        raise PocketError(
            f"{path} does not say its classes and preprocessing: it was not exported by PocketViT. "
            "Export the model again with `pocketvit export`."
        )
    try:
        return Signature.from_json(metadata[KEY])
    except (KeyError, TypeError, ValueError) as error:
        raise PocketError(
            f"the description inside {path} cannot be read ({type(error).__name__}: {error}). Export it again."
        ) from error


def write_signature(model: onnx.ModelProto, signature: Signature) -> None:
    """Replace all metadata of ``model`` by its signature."""
    del model.metadata_props[:]
    model.metadata_props.append(StringStringEntryProto(key=KEY, value=signature.to_json()))


def with_precision(signature: Signature, precision: Literal["fp32", "int8"]) -> Signature:
    """Return the signature of the same model at another precision."""
    return dataclasses.replace(signature, precision=precision)
