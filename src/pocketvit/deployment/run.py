"""Running an exported file under ONNX Runtime, fed the way its own description says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from scipy.special import expit, logit

from ..errors import PocketError
from ..views.resize import to_input
from .signature import parse_signature


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
    # Widens int8 convolution weights once when the file is opened instead of at every call (MobileNet: 1.1 for 3.0 ms).
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not Path(path).is_file():
        raise PocketError(f"there is no file {path}.")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise PocketError(f"ONNX Runtime cannot open {path}: {str(error).splitlines()[0]}") from error


class OnnxModel:
    """An exported file that labels pictures.

    Attributes:
        signature: classes and preprocessing, as written into the file.
        classes: the class names.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._session = open_session(path)
        self.signature = parse_signature(self._session.get_modelmeta().custom_metadata_map, path)
        self.classes = self.signature.classes
        self._input = self._session.get_inputs()[0].name

    def predict(self, pixels: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return probabilities float32 [B, C]: of one class an image, or of each of several labels.

        Args:
            pixels: uint8 views [B, 3, S, S]; pictures [B, H, W, 3] for a file with preprocessing inside.
        """
        values = self.outputs(pixels)
        if self.signature.source_size:
            return values
        if self.signature.several:
            return expit(values)
        shifted = np.exp(values - values.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    def logits(self, pixels: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return logits [B, C] (log-probabilities for a file with preprocessing inside that answers one class)."""
        values = self.outputs(pixels)
        if not self.signature.source_size:
            return values
        return logit(values.clip(1e-7, 1 - 1e-7)) if self.signature.several else np.log(np.maximum(values, 1e-30))

    def outputs(self, pixels: np.ndarray | torch.Tensor) -> np.ndarray:
        """Return what the file itself answers, float32 [B, C].

        An int8 file is run image by image: its activations share one scale a batch, and a device sees one image at a
        time, so that a batch would be another (slightly worse) model than the one that ships.
        """
        array = pixels.detach().cpu().numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
        self._check(array)
        step = 1 if self.signature.precision == "int8" else 32
        chunks: Sequence[np.ndarray] = [array[start : start + step] for start in range(0, len(array), step)]
        if not chunks:
            return np.zeros((0, len(self.classes)), np.float32)
        if len(chunks) == 1:
            return self._run(chunks[0])
        with ThreadPoolExecutor(max_workers=max(1, min(8, os.cpu_count() or 1))) as pool:
            return np.concatenate(list(pool.map(self._run, chunks)))

    def _check(self, array: np.ndarray) -> None:
        source = self.signature.source_size
        wanted = (*source, 3) if source else (3,)
        shape = array.shape[1:] if source else array.shape[1:2]
        if array.dtype != np.uint8 or array.ndim != 4 or tuple(shape) != wanted:
            side = self.signature.view.view_size
            raise PocketError(
                f"{self.path} takes uint8 "
                + (f"pictures [B, {source[0]}, {source[1]}, 3]" if source else f"views [B, 3, {side}, {side}]")
                + f", not {array.dtype} {list(array.shape)}."
            )

    def _run(self, array: np.ndarray) -> np.ndarray:
        if self.signature.source_size:
            feed = np.ascontiguousarray(array)
        else:
            signature = self.signature
            views = torch.from_numpy(np.ascontiguousarray(array))
            feed = to_input(views, signature.input_size, signature.mean, signature.std).numpy()
        return self._session.run(None, {self._input: feed})[0]
