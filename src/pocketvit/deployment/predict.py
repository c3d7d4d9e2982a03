"""Labels for picture files, from an exported file or a live student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import ViewConfig
from ..errors import PocketError
from ..models import LoadedModel, load_model
from ..sources.decode import SUFFIXES, BrokenImage, decode, to_rgb8
from ..sources.tiles import cut_tiles
from ..views.resize import to_input
from .preprocess import plain_views
from .run import OnnxModel

PRESENT = 0.5  # of several labels, those of at least this probability are called present
_BATCH = 64
_IN_A_RUN = ("model-int8.onnx", "model.onnx", "student")


def predict_images(
    model: OnnxModel | LoadedModel | Path | str,
    paths: Path | str | Sequence[Path | str],
    *,
    view: ViewConfig | None = None,
    window: tuple[float, float] | None = None,
    topk: int = 5,
) -> list[dict[str, Any]]:
    """Label picture files, in the order given; what cannot be read is reported and the others go on.

    Args:
        model: an exported file, a student folder, a run folder (its int8 file is preferred), or one of them loaded.
        paths: files and folders; folders are searched through and through, in sorted order.
        view: how a picture becomes a view, for a student folder; by default a plain view of its input size. An
            exported file knows its own.
        window: intensities that become black and white, for what is not 8-bit; an exported file may know its own.
        topk: how many classes are listed.

    Returns:
        For each file ``{"file", "label", "score", "topk": [[label, score], ...]}``, or ``{"file", "error"}``. Where an
        image has several labels ``{"file", "labels": [[label, score], ...], "topk"}``, with the labels whose
        probability is at least 0.5, the likeliest first.

    Raises:
        PocketError: a path that does not exist, a folder without pictures, or a model that cannot be loaded.
    """
    files = list_pictures([paths] if isinstance(paths, (str, Path)) else paths)
    if isinstance(model, (str, Path)):
        model = open_model(model)
    window = window or (model.signature.window if isinstance(model, OnnxModel) else None)
    classes = model.classes

    def name(index: int) -> str:
        return classes[index] if classes else str(index)

    results: list[dict[str, Any]] = []
    for start in range(0, len(files), _BATCH):
        batch: list[tuple[dict[str, Any], np.ndarray]] = []
        for file in files[start : start + _BATCH]:
            entry: dict[str, Any] = {"file": str(file)}
            results.append(entry)
            try:
                picture = to_rgb8(decode(file), window)
                _require_size(model, picture, file)
                batch.append((entry, picture))
            except BrokenImage as error:
                entry["error"] = error.why
            except PocketError as error:
                entry["error"] = str(error)
        if batch:
            probabilities = label_pictures(model, [picture for _, picture in batch], view)
            for (entry, _), row in zip(batch, probabilities, strict=True):
                best = np.argsort(-row, kind="stable")[:topk]
                ranked = [[name(i), float(row[i])] for i in best]
                if several_labels(model):
                    there = [i for i in np.argsort(-row, kind="stable") if row[i] >= PRESENT]
                    entry.update(labels=[[name(i), float(row[i])] for i in there], topk=ranked)
                else:
                    entry.update(label=ranked[0][0], score=ranked[0][1], topk=ranked)
    return results


def label_pictures(
    model: OnnxModel | LoadedModel, pictures: Sequence[np.ndarray], view: ViewConfig | None = None
) -> np.ndarray:
    """Return the probabilities float32 [B, C] of uint8 pictures [H, W, 3] of any sizes.

    A model that was made for tiles sees each picture in tiles, whose probabilities are averaged.
    """
    tile = model.signature.tile if isinstance(model, OnnxModel) else model.config.get("pocketvit", {}).get("tile")
    if not tile:
        return _label(model, pictures, view)
    return np.stack([_label(model, cut_tiles(picture, tile), view).mean(0) for picture in pictures])


def _label(model: OnnxModel | LoadedModel, pictures: Sequence[np.ndarray], view: ViewConfig | None) -> np.ndarray:
    if isinstance(model, OnnxModel):
        if model.signature.source_size:
            return model.predict(np.stack(pictures))
        return model.predict(plain_views(pictures, model.signature.view))
    pixels = plain_views(pictures, view or ViewConfig(view_size=model.input_size))
    module: nn.Module = model.module
    parameter = next(module.parameters(), torch.empty(0))
    module.eval()
    with torch.inference_mode():
        values = to_input(pixels, model.input_size, model.mean, model.std).to(parameter.device)
        logits = module(values).float()
        return (logits.sigmoid() if model.several else logits.softmax(1)).cpu().numpy()


def several_labels(model: OnnxModel | LoadedModel) -> bool:
    """Whether a model answers several labels an image, each there or not, instead of one class."""
    return model.signature.several if isinstance(model, OnnxModel) else model.several


def open_model(path: Path | str) -> OnnxModel | LoadedModel:
    """Open an ``.onnx`` file, a student folder or a run folder.

    Raises:
        PocketError: there is nothing that can be opened.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        return OnnxModel(path)
    for name in _IN_A_RUN:
        if (path / name).exists():
            return open_model(path / name)
    return load_model(path)


def list_pictures(paths: Sequence[Path | str]) -> list[Path]:
    """Return the picture files that ``paths`` name or hold.

    Raises:
        PocketError: a path does not exist, or a folder holds no picture.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise PocketError(f"the folder {path} holds no pictures ({', '.join(sorted(SUFFIXES)[:6])}, ...).")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise PocketError(f"there is no file or folder {path}.")
    return files


def _require_size(model: OnnxModel | LoadedModel, picture: np.ndarray, file: Path) -> None:
    if not isinstance(model, OnnxModel):
        return
    size = model.signature.source_size
    if size and picture.shape[:2] != size:
        raise PocketError(
            f"{file} has {picture.shape[1]}x{picture.shape[0]} pixels, but {model.path.name} was exported for pictures "
            f"of {size[1]}x{size[0]} with the preprocessing inside. Export without it for pictures of any size."
        )
