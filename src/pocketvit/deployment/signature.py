"""What an exported file says about itself: classes, task and preprocessing, as one JSON text in its ONNX metadata.

The device's ``predict.py`` reads the same text, so that an ``.onnx`` file alone is enough to label a picture.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import StringStringEntryProto

from ..errors import PocketError
from ..models.saving import task_in
from ..tasks import Task, task_named
from ..views.preprocessing import Preprocessing

KEY = "pocketvit"
CLASSIFICATION = task_named("classification")


@dataclass(frozen=True)
class Signature:
    """How to feed an exported file and how to read its answer.

    With ``source_size`` the file takes uint8 pictures [B, H, W, 3] of that size and answers probabilities [B, C];
    without, it takes normalized float32 pixels [B, 3, S, S] and answers logits [B, C].
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    task: Task = CLASSIFICATION
    source_size: tuple[int, int] | None = None  # (H, W)
    precision: Literal["fp32", "int8"] = "fp32"
    weights: str = ""  # SHA-256 of the file's weights, see `digest`; "" in files of versions before 0.2

    def to_json(self) -> str:
        """Return the text that is stored in the file."""
        values: dict[str, Any] = {
            "classes": list(self.classes),
            "task": self.task.name,
            "activation": self.task.kind,  # for devices, where there is no pocketvit to ask
            "preprocessing": self.preprocessing.to_dict(),
            "source_size": list(self.source_size) if self.source_size else None,
            "precision": self.precision,
            "weights": self.weights,
        }
        return json.dumps(values, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Signature:
        """Read what `to_json` wrote, in this version or the one before."""
        values = json.loads(text)
        source = values["source_size"]
        about = values["preprocessing"] if "preprocessing" in values else _before_0_2(values)
        return cls(
            classes=tuple(map(str, values["classes"])),
            preprocessing=Preprocessing.from_dict(about),
            task=task_named(task_in(values)),
            source_size=(int(source[0]), int(source[1])) if source else None,
            precision=values["precision"],
            weights=str(values.get("weights", "")),
        )


def _before_0_2(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of a file whose view, input, window and tile stood in places of their own."""
    view = values["view"]
    about = {name: values[name] for name in ("input_size", "mean", "std", "window")}
    about |= {"view_size": view["view_size"], "resample": view["resample"], "lobes": view["lobes"]}
    return about | {"aspect": view["fit"], "tile": values.get("tile")}


def read_signature(model: onnx.ModelProto, path: Path | str) -> Signature:
    """Return the signature of a loaded ONNX model; ``path`` is only named in the error."""
    return parse_signature({entry.key: entry.value for entry in model.metadata_props}, path)


def parse_signature(metadata: Mapping[str, str], path: Path | str) -> Signature:
    """Return the signature out of a file's metadata.

    Raises:
        PocketError: the file was not exported by PocketViT.
    """
    if KEY not in metadata:
        raise PocketError(
            f"{path} does not say its classes and preprocessing: it was not exported by PocketViT. Export the network "
            "itself: `pocketvit export FILE --arch NAME` of its weights, or `pocketvit export MODULE:FUNCTION`."
        )
    try:
        return Signature.from_json(metadata[KEY])
    except PocketError as error:
        raise PocketError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise PocketError(
            f"the description inside {path} cannot be read ({type(error).__name__}: {error}). Export it again."
        ) from error


def write_signature(model: onnx.ModelProto, signature: Signature) -> None:
    """Replace all metadata of ``model`` by its signature, with the digest of its weights as they are now."""
    signature = dataclasses.replace(signature, weights=digest(model))
    del model.metadata_props[:]
    model.metadata_props.append(StringStringEntryProto(key=KEY, value=signature.to_json()))


def digest(model: onnx.ModelProto) -> str:
    """Return the hex SHA-256 of a model's weights: their names, shapes, types and bytes."""
    total = hashlib.sha256()
    for weight in model.graph.initializer:
        total.update(f"{weight.name}\0{weight.data_type}\0{list(weight.dims)}\0".encode())
        values = weight.raw_data if weight.HasField("raw_data") else onnx.numpy_helper.to_array(weight).tobytes()
        total.update(values)
    return total.hexdigest()
