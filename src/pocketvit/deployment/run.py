"""Running an exported file under ONNX Runtime, fed the way its own description says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from ..errors import PocketError
from .model import Model, finite
from .signature import Signature, digest, parse_signature

Run = Callable[[np.ndarray], np.ndarray]


def open_session(path: Path | str, threads: int = 1) -> onnxruntime.InferenceSession:
    """Return a CPU session with ``threads`` threads that sleep when idle.

    Spinning threads of an idle session steal the processor from everything else in the process (torch went from 17
    to 47 ms beside one), so that spinning is always off.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not Path(path).is_file():
        raise PocketError(f"there is no file {path}.")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise PocketError(f"ONNX Runtime cannot open {path}: {str(error).splitlines()[0]}") from error


class FileModel(Model):
    """An exported file that labels pictures, whatever runs it.

    Attributes:
        path: The file.
        signature: What it says of itself.
        run: From what the network takes, as a rule normalized float32 [B, 3, S, S], to its outputs float32 [B, ...].
    """

    def __init__(self, path: Path | str, signature: Signature, run: Run, *, one_by_one: bool, at_once: int = 1) -> None:
        """Keep an opened file.

        Args:
            path: The file.
            signature: What it says of itself.
            run: Its network.
            one_by_one: Whether it takes, or should be given, one picture at a time.
            at_once: How many threads may call ``run`` at the same time.
        """
        self.path, self.name = Path(path), str(path)
        self.signature, self.run = signature, run
        self.classes, self.task = signature.classes, signature.task
        self.preprocessing = signature.preprocessing
        self._one_by_one, self._at_once = one_by_one, at_once

    def probabilities(self, views: np.ndarray | torch.Tensor) -> np.ndarray:
        """See `Model`; refused by a file with the preprocessing inside, which takes pictures (`label`)."""
        if self.signature.source_size:
            raise PocketError(f"{self.path} has its preprocessing inside: it takes whole pictures, and no views.")
        logits = torch.from_numpy(self.outputs(views))
        return finite(self.task.probabilities(logits).numpy(), self.name)

    def prepare(self, picture: np.ndarray) -> torch.Tensor:
        """See `Model`; a file with the preprocessing inside takes pictures of one size."""
        size = self.signature.source_size
        if size is None:
            return super().prepare(picture)
        if picture.shape[:2] != size:
            raise PocketError(
                f"has {picture.shape[1]}x{picture.shape[0]} pixels, but {self.path.name} was exported for pictures of "
                f"{size[1]}x{size[0]} with the preprocessing inside. Export without it for pictures of any size."
            )
        return torch.tensor(picture)[None]

    def answer(self, prepared: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
        """See `Model`."""
        if not self.signature.source_size or not prepared:
            return super().answer(prepared, sizes)
        found = self.task.from_graph(finite(self.outputs(torch.cat(list(prepared))), self.name))
        return self._placed(found, sizes)

    def outputs(self, pixels: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return what the file itself answers, float32 [B, ...].

        That is a network's outputs (as a rule logits [B, C]), or with preprocessing inside what `Task.graph` makes of
        them.

        An int8 file is run image by image: its activations share one scale a batch, and a device sees one image at a
        time, so that a batch would be another (slightly worse) model than the one that ships.

        Args:
            pixels: uint8 views [B, 3, V, V]; pictures [B, H, W, 3] for a file with preprocessing inside.
        """
        given = self._feed(pixels)
        step = 1 if self._one_by_one else 32
        chunks = [given[start : start + step] for start in range(0, len(given), step)]
        if not chunks:
            return np.zeros((0, len(self.classes)), np.float32)
        if len(chunks) == 1:
            return self._run(chunks[0])
        with ThreadPoolExecutor(max_workers=self._at_once) as pool:
            return np.concatenate(list(pool.map(self._run, chunks)))

    def _feed(self, pixels: np.ndarray | torch.Tensor) -> np.ndarray:
        source = self.signature.source_size
        if source is None:
            return self._checked(pixels).cpu().numpy()
        array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (*source, 3):
            raise PocketError(
                f"{self.path} takes uint8 pictures [B, {source[0]}, {source[1]}, 3], not {array.dtype} "
                f"{list(array.shape)}."
            )
        return array

    def _run(self, array: np.ndarray) -> np.ndarray:
        feed = np.ascontiguousarray(array)
        if not self.signature.source_size:
            feed = self.preprocessing.to_input(torch.from_numpy(feed)).numpy()
        return self.run(feed)


class OnnxModel(FileModel):
    """A file under ONNX Runtime.

    Raises:
        PocketError: It cannot be opened, was not exported by PocketViT, or its weights are not those it was written
            with.

    Attributes:
        batch: How many pictures it takes at once: "1", or "batch" for any number.
    """

    def __init__(self, path: Path | str) -> None:
        session = open_session(path)
        try:
            metadata, source = session.get_modelmeta().custom_metadata_map, session.get_inputs()[0]
            name, one = source.name, source.shape[0] == 1
        except UnicodeDecodeError as error:
            raise PocketError(f"{path} is damaged: what it says of itself is no text. Copy it again.") from error
        signature = parse_signature(metadata, path)
        if signature.weights and digest(onnx.load(path)) != signature.weights:
            raise PocketError(f"{path} is damaged: its weights are not those it was written with. Copy it again.")
        self.batch = "1" if one else "batch"
        one_by_one = signature.precision == "int8" or self.batch == "1"
        at_once = max(1, min(8, os.cpu_count() or 1))
        run = partial(_run_session, session, name)
        super().__init__(path, signature, run, one_by_one=one_by_one, at_once=at_once)


def _run_session(session: onnxruntime.InferenceSession, source: str, feed: np.ndarray) -> np.ndarray:
    return session.run(None, {source: feed})[0]
