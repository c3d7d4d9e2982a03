"""Checkpoints: one safetensors file each, tensors and (as JSON in its metadata) everything else. No pickle anywhere.

One file, because two could not be renamed into place together: a killed run finds either the old state or the new.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import PocketError
from ..files import atomic


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write ``tensors`` and the JSON-like ``state`` to ``path``, atomically, with a checksum of both."""
    seen: set[int] = set()
    stored = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.data_ptr() in seen:  # tied weights: the format wants each tensor to own its memory
            value = value.clone()
        seen.add(value.data_ptr())
        stored[name] = value
    text = json.dumps({"state": state, "crc32": _checksum(stored, state)})
    with atomic(path) as temporary:
        try:
            save_file(stored, temporary, metadata={"state": text})
        except SafetensorError as error:
            raise _as_os_error(error) from error


def _checksum(tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> str:
    """CRC-32 of everything that is kept, which finds any burst of up to 32 wrong bits."""
    as_read = json.loads(json.dumps(state))  # keys that are numbers come back as text
    value = zlib.crc32(json.dumps(as_read, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _as_os_error(error: SafetensorError) -> OSError:
    """Recover the errno that the Rust library puts into its text, so that a full disk is told as one."""
    import errno

    text = str(error)
    code = errno.ENOSPC if "No space" in text or "os error 28" in text else errno.EIO
    return OSError(code, text)


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what `save_checkpoint` wrote.

    Raises:
        PocketError: The file is missing, broken (by as much as one byte) or not one of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            kept = json.loads((file.metadata() or {})["state"])
        if not {"state", "crc32"} & set(kept):  # of an older version, which wrote the state alone
            return tensors, kept
        if kept["crc32"] != _checksum(tensors, kept["state"]):
            raise ValueError("its checksum is wrong: bytes of it have changed")
        return tensors, kept["state"]
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise PocketError(
            f"{path} is not a readable checkpoint ({error}). Remove it to start again, or restore it from a copy."
        ) from error


def load_weights(model: nn.Module, folder: Path, which: str = "best") -> dict[str, Any]:
    """Load a run's weights into ``model`` in place.

    Args:
        model: Of the architecture that was trained.
        folder: Of the run (the one that holds ``checkpoints``).
        which: "best" by validation, or "last". Both are the weight average where the run keeps one.

    Returns:
        The state that was saved with the weights: "epoch", "step" and, for "best", its "score".

    Raises:
        PocketError: There is no such checkpoint, or it belongs to another architecture.
    """
    path = folder / "checkpoints" / f"{which}.safetensors"
    if not path.exists():
        raise PocketError(f"{folder} holds no {which} checkpoint: its training has not come that far.")
    tensors, state = read_checkpoint(path)
    prefix = "ema." if any(name.startswith("ema.") for name in tensors) else "model."
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PocketError(f"{path} holds another network than {type(model).__name__} as configured: {error}") from error
    return state
