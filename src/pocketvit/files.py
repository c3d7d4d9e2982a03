"""Writing files so that a kill, a full disk or a second process never leaves half of one behind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import PocketError

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("pocketvit")

_UNFINISHED = ".unfinished-"  # how the name of a folder in the making begins
_ABANDONED = 600.0  # seconds after which nobody writes to a temporary file any more


@contextlib.contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and rename it into place.

    On any failure the temporary file is removed and ``path`` is as it was before. A full disk and a read-only folder
    become a ``PocketError`` that names the file.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; what we write is to be shared
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path | str, *, waiting: str = "", refused: str = "") -> Iterator[None]:
    """Let one process at a time work in a folder, which is made; the lock goes with the process, however it ends.

    There is none where the system knows no such thing (Windows, some network file systems). What killed processes left
    half-written in the folder is removed.

    Args:
        folder: Not locked by this process already.
        waiting: Said (once) where another process has it.
        refused: Raised as a ``PocketError`` instead of waiting.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise storage_error(error, folder) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if refused:
                raise PocketError(refused) from None
            if waiting:
                log.info("%s", waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # no locks here
            yield
            return
        _sweep(Path(folder))
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(folder: Path | str) -> Iterator[Path]:
    """Yield a folder to write into; when all is written its contents come into ``folder``, else none of them does.

    Files and folders of the same names are replaced; so is a ``model-int8`` that an earlier export left beside a
    ``model`` of the same kind, of which there is none any more.

    Raises:
        PocketError: Nothing can be written there.
    """
    folder = Path(folder)
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{_UNFINISHED}*"):  # of a killed process
            if _abandoned(leftover):
                shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_UNFINISHED) as made:
            yield Path(made)
            paths = sorted(Path(made).iterdir())
            for name in {path.name for path in paths} | {f"model-int8{p.suffix}" for p in paths if p.stem == "model"}:
                if (folder / name).is_dir():  # as Core ML's files are
                    shutil.rmtree(folder / name)
                elif not (Path(made) / name).exists():
                    (folder / name).unlink(missing_ok=True)
            for path in paths:
                path.replace(folder / path.name)
    except OSError as error:
        raise storage_error(error, folder) from error
    finally:
        if new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written, unless it may be somebody's who works here without the lock."""
    for leftover in folder.rglob(".*.part"):
        if _abandoned(leftover):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _abandoned(path: Path) -> bool:
    """Whether nobody has written to a file, or into a folder, for so long that nobody will."""
    try:
        return time.time() - path.stat().st_mtime > _ABANDONED
    except OSError:  # somebody else has taken it away
        return False


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable (a no-op where folders cannot be opened, as on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def storage_error(error: OSError, path: Path | str) -> PocketError:
    """Say in one sentence what an ``OSError`` met while writing ``path`` means and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PocketError(f"the disk is full: could not write {path}. Free some space and run again with --resume.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PocketError(f"no permission to write {path}. Choose a folder you can write to with --out.")
    return PocketError(f"could not write {path}: {error.strerror or error}.")


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8.

    Bytes of a file's name that are no UTF-8, which Linux allows, become ``\\udcff``; JSON gives them back as they were.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a broken one is a ``PocketError`` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # of the last, nested without end
        raise PocketError(f"could not read {path}: {error}") from error


def read_arrays(path: Path | str) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` by name; the checksums of the archive are verified.

    Raises:
        PocketError: It is broken (by as much as one byte), or holds Python objects, which are not loaded.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise PocketError(f"could not read {path}: {error}") from error


def is_archive(path: Path | str) -> bool:
    """Whether a file is a zip archive; one whose end is damaged is none, though zipfile may raise of it."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def require_space(folder: Path | str, needed: int, purpose: str) -> None:
    """Raise ``PocketError`` when fewer than ``needed`` bytes (and a reserve of 1 %) are free where ``folder`` is."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed * 1.01:
        raise PocketError(
            f"{purpose} needs {human_bytes(needed)}, but only {human_bytes(free)} are free in {place}. "
            "Free some space or choose another folder with --out."
        )


BYTE_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(text: str, option: str) -> int:
    """Read a size such as ``2GB`` or ``500 MiB``; ``option`` is named in the error."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]+)\s*", text)
    if match is None or match[2].lower() not in BYTE_UNITS:
        raise PocketError(f"{option} {text}: that is no size. Give a number and a unit, as in {option} 2GB.")
    return int(float(match[1]) * BYTE_UNITS[match[2].lower()])


def human_bytes(count: float) -> str:
    """Return ``count`` bytes in decimal units: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:  # what is not rounded up to 1000
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def human_time(seconds: float) -> str:
    """Return a duration as a person says it: ``4.2 s``, ``12 min``, ``3.4 h``."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.2g} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.2g} h" if seconds < 36000 else f"{seconds / 3600:.0f} h"


def counted(count: int, what: str) -> str:
    """Return a number of things as a person says it: ``1 epoch``, ``2,000 epochs``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def sha256_of(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
