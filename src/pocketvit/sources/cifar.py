"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in the folders that torchvision downloads: pickled batches of pixels.

The batches are read by an unpickler that knows plain values and byte arrays only, so that no file can run code.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PocketError
from .arrays import Split, list_arrays
from .listing import Listing

_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))


def find_cifar(folder: Path) -> Path | None:
    """Return the folder of batches at ``folder`` or one level below it, or None if there is none."""
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        if (place / "data_batch_1").is_file() or ((place / "meta").is_file() and (place / "train").is_file()):
            return place
    return None


def list_cifar(folder: Path) -> Listing:
    """List the batches in ``folder``: the train and test splits are CIFAR's own; CIFAR-100's fine labels are used.

    Raises:
        PocketError: a batch is missing, damaged, or holds anything but plain values and byte arrays.
    """
    ten = (folder / "data_batch_1").is_file()
    files = {"train": _TEN, "test": ("test_batch",)} if ten else {"train": ("train",), "test": ("test",)}
    label_key, names_key = ("labels", "label_names") if ten else ("fine_labels", "fine_label_names")
    meta_path = folder / ("batches.meta" if ten else "meta")
    meta = read_pickle(meta_path)
    splits: dict[str, Split] = {}
    for split, names in files.items():
        images, labels = [], []
        for name in names:
            batch = read_pickle(folder / name)
            try:
                pixels = np.asarray(batch["data"])
                images.append(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels.append(np.asarray(batch[label_key], np.int64))
                if pixels.dtype != np.uint8:
                    raise ValueError(f"pixels are {pixels.dtype}")
            except (KeyError, ValueError, TypeError) as error:
                raise PocketError(f"{folder / name} is not a CIFAR batch ({error}): download it again") from error
        splits[split] = (np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels))
    if not isinstance(meta, dict) or names_key not in meta:
        raise PocketError(f"{meta_path} has no {names_key}: download CIFAR again")
    return list_arrays("cifar10" if ten else "cifar100", splits, tuple(str(name) for name in meta[names_key]))


def read_pickle(path: Path) -> Any:
    """Read a pickle of dicts, lists, numbers, text and numpy arrays; anything else in it is refused, not run.

    Raises:
        PocketError: missing, damaged, or something else is in it.
    """
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except FileNotFoundError as error:
        raise PocketError(f"{path} is missing: download CIFAR again") from error
    except _Refused as error:
        raise PocketError(
            f"{path} asks to load {error}, which could run code, and is not what CIFAR holds: it was not read. "
            "Download CIFAR again from its authors"
        ) from error
    except Exception as error:  # a damaged pickle fails in many ways, none of which ran anything
        raise PocketError(f"{path} is damaged ({type(error).__name__}: {error}): download CIFAR again") from error


class _Refused(Exception):
    """A name that a pickle asked for and that is not allowed."""


class _DType:
    """Stands for numpy.dtype while unpickling: keeps its text and ignores the rest of its state."""

    def __init__(self, text: Any, *_: Any) -> None:
        self.text = text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.text = ">" + str(self.text)

    def plain(self) -> np.dtype:
        dtype = np.dtype(str(self.text))
        if dtype.kind not in "biuf":
            raise ValueError(f"an array of {dtype}")
        return dtype


class _Array:
    """Stands for numpy.ndarray while unpickling, and becomes one by `numpy.asarray`."""

    array: np.ndarray = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        data = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
        self.array = np.frombuffer(data, dtype.plain()).reshape(shape, order="F" if fortran else "C")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array if dtype is None else self.array.astype(dtype)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(buffer: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(bytes(buffer), dtype.plain()).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in Python 2's protocol
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None
