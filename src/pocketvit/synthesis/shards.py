"""Numbered pieces of work on disk: each is there whole or not at all, and is read without being loaded.

A piece is an uncompressed ``.npz``, whose arrays are memory-mapped where they lie in the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..errors import PocketError
from ..files import atomic

_LOCAL_HEADER = 30  # bytes of a zip member's local header, before its name and extra field


class Shards:
    """The pieces ``PREFIX-000012.npz`` of a folder."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def path(self, number: int) -> Path:
        return self.folder / f"{self.prefix}-{number:06d}.npz"

    def __contains__(self, number: int) -> bool:
        return self.path(number).exists()

    def numbers(self) -> list[int]:
        """The pieces that are there, in order."""
        return sorted(int(path.stem.rsplit("-", 1)[1]) for path in self.folder.glob(f"{self.prefix}-*.npz"))

    def write(self, number: int, **arrays: np.ndarray) -> None:
        """Write a piece; a kill leaves none of it."""
        for leftover in self.folder.glob(f".{self.path(number).name}.*.part"):
            leftover.unlink(missing_ok=True)
        with atomic(self.path(number)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    def read(self, number: int) -> dict[str, np.ndarray]:
        """Return a piece's arrays, memory-mapped."""
        return map_arrays(self.path(number))

    def remove(self) -> None:
        """Delete all pieces."""
        for number in self.numbers():
            self.path(number).unlink(missing_ok=True)


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Memory-map the arrays of an uncompressed ``.npz``, read-only.

    Raises:
        PocketError: no such file, or one that is compressed or broken.
    """
    try:
        result = {}
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise PocketError(f"{path} is compressed, and is expected to be plain: save it with numpy.savez.")
                file.seek(member.header_offset)
                header = file.read(_LOCAL_HEADER)
                file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(file)
                if dtype.hasobject or fortran:
                    raise PocketError(f"{path} holds {member.filename}, which is no plain array.")
                name = member.filename.removesuffix(".npy")
                empty = 0 in shape
                result[name] = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", file.tell(), shape)
        return result
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise PocketError(f"{path} cannot be read ({error}). Delete it, and run again to make it anew.") from error


def write_npz(path: Path, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype, Iterator[np.ndarray]]]) -> None:
    """Write an uncompressed ``.npz`` piece by piece, so that it may be larger than memory; whole or not at all.

    Args:
        path: of the file.
        arrays: name -> (shape, type, consecutive parts along the first axis).
    """
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, (shape, dtype, parts) in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for part in parts:
                    file.write(np.ascontiguousarray(part, dtype).data)
