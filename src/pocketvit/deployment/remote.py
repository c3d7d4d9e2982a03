"""device.zip on a device that ssh reaches: copied there, run, its figures brought back, and nothing left behind.

The system's own ``ssh`` does it, so that a user's aliases, ports and keys hold. One connection: a tar goes in by stdin,
JSON comes out by stdout. The device needs a shell with mktemp and tar (busybox has both) and python3.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from typing import IO, Any

from ..errors import PocketError
from .package import write_device_zip

SECONDS = 3.0  # of each of bench.py's two timings
PATIENCE = 300.0  # seconds for all of it
_LONGEST = 1 << 20  # bytes that a device may print
_BEGUN = "pocketvit: bench.py begins"  # whatever its login scripts print stands before this
_PLACE = "pocketvit-python"  # of a virtual environment in the device's home: some systems want none of pip without one
_NO_PYTHON, _NO_FOLDER = 91, 92
_OPTIONS = (
    *("-o", "BatchMode=yes"),  # it asks for nothing: nobody might be there to answer
    *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
    *("-o", "ForwardX11=no", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes"),
    *("-o", "RemoteCommand=none", "-T"),
)
# For any login shell: one word in single quotes that has none within, nor a line break. Stdin is read to its end before
# anything can fail.
_SCRIPT = (
    f"d=$(mktemp -d) || exit {_NO_FOLDER}; "
    'clean() { cd /; rm -rf "$d"; }; trap clean EXIT; trap "exit 93" HUP INT PIPE TERM; '
    f'cd "$d" && tar xf - || exit {_NO_FOLDER}; '
    f'p="$HOME/{_PLACE}/bin/python"; [ -x "$p" ] || p=$(command -v python3) || exit {_NO_PYTHON}; '
    f'echo "{_BEGUN}"; TMPDIR="$d" "$p" bench.py --json --seconds '
)


def bench_there(host: str, file: Path) -> dict[str, Any]:
    """Run ``bench.py`` on an exported file on a device; return what it printed there.

    Args:
        host: As ``ssh`` takes it: an alias, ``user@device`` or ``ssh://user@device:port``; see `settings.values`.
        file: ONNX, of this package.

    Raises:
        PocketError: The device does not answer, asks for something, cannot run it, or answers something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        archive = write_device_zip(Path(folder) / "device.zip", file)
        with zipfile.ZipFile(archive) as packed:
            digest = json.loads(packed.read("golden.json"))["sha256"]
            with open(Path(folder) / "device.tar", "wb") as tar:
                _to_tar(packed, tar)
        with open(Path(folder) / "device.tar", "rb") as tar:
            code, printed, errors = _ssh(host, sh(f"{_SCRIPT}{SECONDS:g}"), tar)
    try:
        last = (printed.rpartition(_BEGUN)[2].strip().splitlines() or [""])[-1]
        found = json.loads(last, parse_constant=lambda _: None)  # no NaN: it is written again
    except (ValueError, RecursionError):
        found = None
    if _BEGUN not in printed or not isinstance(found, dict):
        raise PocketError(_why(host, code, printed, errors))
    if found.get("sha256") != digest:
        raise PocketError(f"{host} measured another file than {file}, which was sent there. Try once more.")
    return found


def sh(script: str) -> str:
    """Return the command that runs a script in ``sh``, whatever the device's login shell is."""
    return f"sh -c {shlex.quote(script)}"


def _to_tar(packed: zipfile.ZipFile, out: IO[bytes]) -> None:
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in packed.namelist():
            about, content = tarfile.TarInfo(name), packed.read(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def _ssh(host: str, command: str, given: IO[bytes]) -> tuple[int, str, str]:
    """Run a command on a device; return its exit code (255: ssh's own), what it printed, and its errors.

    Raises:
        PocketError: There is no ssh, or the device takes too long or prints without end.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(["ssh", *_OPTIONS, "--", host, command], stdin=given, stdout=out, stderr=errors)
        except OSError as error:
            raise PocketError(
                f"`ssh` cannot be started here ({error.strerror}). Install OpenSSH's client, or unpack device.zip on "
                "the device, run `python bench.py --json > FILE` there, and give FILE to `pocketvit report --device`."
            ) from error
        end = time.monotonic() + PATIENCE
        try:
            while process.poll() is None:
                if time.monotonic() > end:
                    raise PocketError(
                        f"{host} has not finished after {PATIENCE:.0f} s. See what it is busy with, and try once more."
                    )
                if max(os.fstat(file.fileno()).st_size for file in (out, errors)) > _LONGEST:
                    raise PocketError(f"{host} prints without end. `ssh {host} true` must print nothing.")
                time.sleep(0.05)
        finally:
            process.kill()  # of no effect once it has ended
            process.wait()
        return process.returncode, _read(out), _read(errors)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_LONGEST).decode("utf-8", "replace")


def _why(host: str, code: int, printed: str, errors: str) -> str:
    """Say what is wrong where no figures came back, and what to do."""
    said = [line.strip() for line in errors.splitlines() if line.strip()] or ["it says nothing"]
    last = "".join(letter for letter in said[-1][:200] if letter.isprintable()).rstrip(".")
    missing = next((line for line in said if "No module named" in line), "")
    if _BEGUN in printed:
        if code == 255:
            return f"{host} hung up while bench.py ran there ({last}). See that it stays on, and try once more."
        if missing:
            place = f"python3 -m venv {_PLACE} && {_PLACE}/bin/pip install onnxruntime numpy pillow"
            module = missing.rpartition(" ")[2].strip("'")
            return f"{module} is missing on {host}. Install what is needed with: ssh {host} {shlex.quote(place)}"
        if code:
            return f"bench.py does not run on {host}: {last}. It needs Python 3.10 or newer and ONNX Runtime 1.17."
        return f"bench.py printed no JSON on {host}. Try it there by hand, with the device.zip of the file."
    if code == _NO_PYTHON:
        return f"{host} has no python3. Install Python 3.10 or newer there."
    if code == _NO_FOLDER:
        return f"the files could not be written on {host}: {last}. See that it has mktemp, tar and some space."
    if "Permission denied" in errors:
        return f"{host} lets nobody in without a password ({last}). Give it your key once: `ssh-copy-id {host}`."
    if "Host key verification failed" in errors:
        return f"the key of {host} is not known here, or is another one now. `ssh {host}` by hand says which, and asks."
    if code == 255:
        return f"{host} does not answer: {last}. `ssh {host} true` must work first."
    return f"{host} runs no command of ours (exit code {code}: {last}). `ssh {host} true` must work."
