"""`make faults`: a run is struck at a random moment, gone on with, and must end with the result of an unbroken one.

    python tests/campaigns/faults.py --trials 20 --seed 7

The run is a whole `distill` on drawn pictures: opened and packed, a teacher of other classes fine-tuned, two views
labelled, student and baseline trained, exported, scored, reported. Everything it does to files passes Python's audit
hooks, so "the 431st event" is the same moment each time; trial n strikes at an event that is drawn from (seed, n).

kill       SIGKILL.
term       SIGTERM: it must end by itself, with exit code 143 and one message.
vanish     a picture is deleted: the run ends well, or with one message; with the picture back it goes on.
flip       SIGKILL, then a bit of a file that holds numbers is flipped: the next run ends with the same result, or with
           one message that names a file; without that file (or its folder) it goes on.
full       the disk is full from there on (a small file system in memory; root on Linux only): one message; with space
           it goes on.

Clocks are left out: latencies are measured for a hundredth of the time, and memory is not. With ``--until baselines``
runs end with their trained networks, before the export, which takes most of the time of so small a run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from walk_fakes import CHOICES, draw_photos  # noqa: E402

KINDS = ("kill", "term", "vanish", "flip", "full")
SECONDS = 900  # of one run; more is a hang
_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")
# Files that hold numbers, whose wrong bits nobody would see. What people write and read (config, logs, the report's
# figures) is theirs to change.
_NUMBERS = (".safetensors", ".bin", ".onnx", ".npz")
OPTIONS = {**CHOICES, "teacher_size": 32}


@dataclass
class Trial:
    """One blow, and what came of it."""

    number: int
    kind: str
    event: int
    stage: str = ""  # in which it fell
    said: str = ""  # by the struck run, or by the next one
    verdict: str = ""  # "same", or what went wrong


def command(photos: Path, runs: Path, *more: str) -> list[str]:
    words = ["distill", str(photos), "--teacher", "walk_fakes:tiny", "--out", str(runs), "--device", "cpu", *more]
    for name, value in OPTIONS.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def child(words: list[str], until: str, strike: int, kind: str, target: str, notes: str) -> None:
    """Run the command in this process, and strike it at an event; ``notes`` receives the count of events."""
    from pocketvit import cli, road, rundir
    from pocketvit.deployment import latency
    from pocketvit.road import score

    torch.set_num_threads(1)
    score.measure_latency = lambda what, **options: latency.measure(what, **{**options, "seconds": 0.01})  # type: ignore
    score.peak_memory = lambda *_: None  # type: ignore[assignment]
    if until != "report":
        names = [stage.name for stage in road.DISTILL]
        road.DISTILL = road.DISTILL[: names.index(until) + 1]
        rundir.Run.__str__ = lambda self: str(self.folder)  # type: ignore[method-assign]
    count, stage, busy = 0, "begin", False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count, stage, busy
        if event == "import" or busy or event not in _EVENTS:
            return
        path = str(arguments[0]) if arguments else ""
        if "/runs" not in path and "/photos" not in path:
            return
        count += 1
        if count != strike:
            return
        busy = True
        _write(notes, {"events": count, "stage": now["stage"]})
        if kind in ("kill", "flip"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif kind == "vanish":
            with contextlib.suppress(OSError):
                os.rename(target, target + ".away")
        elif kind == "full":
            with open(Path(target) / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 4096)
        busy = False

    now = _watched()
    sys.addaudithook(hook)
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(words)
    _write(notes, {"events": count, "stage": now["stage"], "code": code, "said": err.getvalue()[-3000:]})
    os._exit(code)


def _watched() -> dict[str, str]:
    """Return what holds the name of the stage that is under way."""
    from pocketvit.road import base

    now = {"stage": "begin"}
    checked = base._checked

    def watched(*arguments: Any) -> Any:
        for stage in checked(*arguments):
            now["stage"] = stage.name
            yield stage

    base._checked = watched
    return now


def _write(path: str, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file)


class Campaign:
    """A folder with pictures and the result of an unbroken run, against which trials are held."""

    def __init__(self, place: Path, until: str = "report") -> None:
        self.place, self.until = place, until
        self.photos = draw_photos(place / "whole" / "photos", 8)
        self.context = multiprocessing.get_context("fork")  # nothing has run yet, and no thread is there
        told = self.run(place / "whole", 0, "none", "")
        if told.get("code") != 0:
            raise SystemExit(f"the unbroken run failed: {told}")
        self.events = int(told["events"])
        self.result = result_of(place / "whole" / "runs" / "photos-1")

    def run(self, place: Path, strike: int, kind: str, target: str, *more: str) -> dict[str, Any]:
        """Run the command in a process of its own; return what it noted, and how it ended."""
        notes = place / "notes.json"
        notes.unlink(missing_ok=True)
        words = command(place / "photos", place / "runs", *more)
        process = self.context.Process(target=child, args=(words, self.until, strike, kind, target, str(notes)))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            return {"code": "hang"}
        told = json.loads(notes.read_text()) if notes.is_file() else {}
        return told | {"code": process.exitcode}

    def trial(self, number: int, seed: int, kind: str | None = None) -> Trial:
        """Strike once and go on."""
        draw = random.Random(f"{seed} {number}")
        kind = kind or draw.choice(KINDS)
        found = Trial(number, kind, draw.randrange(1, self.events + 1))
        place = self.place / f"{number}-{kind}"
        with _disk(place, small=kind == "full") as full:
            if kind == "full" and not full:
                found.verdict = "not run (needs root on Linux)"
                return found
            shutil.copytree(self.place / "whole" / "photos", place / "photos")
            pictures = sorted((place / "photos").rglob("*.png"))
            target = str(draw.choice(pictures)) if kind == "vanish" else str(place)
            told = self.run(place, found.event, kind, target)
            found.stage, found.said = told.get("stage", "?"), told.get("said", "")
            found.verdict = self._struck(found, told) or self._gone_on(found, place, draw, target)
        if found.verdict == "same" or full:
            shutil.rmtree(place, ignore_errors=True)
        return found

    def _struck(self, found: Trial, told: dict[str, Any]) -> str:
        """Say what is wrong with how the struck run ended, "" where nothing is."""
        code = told["code"]
        wanted = {"kill": {-9}, "flip": {-9}, "term": {143}, "vanish": {0, 2}, "full": {0, 2}}[found.kind]
        if code not in wanted:
            return f"ended with {code}: {_last(found.said)}"
        return _spoke_well(found.said) if code in (2, 143) else ""

    def _gone_on(self, found: Trial, place: Path, draw: random.Random, target: str) -> str:
        if found.kind == "vanish" and Path(target + ".away").exists():
            os.rename(target + ".away", target)
        (place / "filler").unlink(missing_ok=True)
        if found.kind == "flip":
            _flip(place / "runs", draw)
        for _ in range(4):  # a message may name one file after the other
            begun = list((place / "runs").glob("photos-*/config.yaml"))
            told = self.run(place, 0, "none", "", *(["--resume"] if begun else []))
            if told["code"] == 0:
                run = max((place / "runs").glob("photos-*/config.yaml")).parent
                return "same" if result_of(run) == self.result else "another result without a word"
            found.said = told.get("said", "")
            named = re.findall(r"(/\S+/runs/\S*[^\s.,:;)])", _last(found.said))
            if told["code"] != 2 or found.kind != "flip" or not named:
                return f"going on ended with {told['code']}: {_last(found.said)}"
            for name in named[:1]:  # as the message says: without it, it is made anew
                away = Path(name)
                shutil.rmtree(away, ignore_errors=True) if away.is_dir() else away.unlink(missing_ok=True)
        return f"going on never ended well: {_last(found.said)}"


def result_of(run: Path) -> dict[str, Any]:
    """Return what must be equal to the bit: weights, what everybody answered, and the figures."""
    weights = {f"{place}": load_file(run / place / "checkpoints" / "last.safetensors") for place in (".", "alone")}
    parts: dict[str, Any] = {
        f"{place} {name}": value.reshape(-1).view(torch.uint8).numpy().tobytes()
        for place, tensors in weights.items()
        for name, value in tensors.items()
    }
    if not (run / "results.json").exists():
        return parts
    with np.load(run / "predictions.npz") as arrays:
        parts |= {name: arrays[name].tobytes() for name in arrays.files}
    rows = json.loads((run / "results.json").read_text())["rows"]
    return parts | {f"row {row['key']}": [row.get("accuracy"), row.get("ece"), row.get("agreement")] for row in rows}


def _spoke_well(said: str) -> str:
    """Say what is wrong with the words of a run that did not come to its end."""
    if "Traceback" in said:
        return "a traceback"
    if "defect of pocketvit" in said:
        return f"took it for a defect of its own: {_last(said)}"
    return "" if re.search(r"^(error: |interrupted\.)", said, re.M) else f"said nothing: {_last(said)}"


def _last(said: str) -> str:
    lines = [line for line in said.strip().splitlines() if line.startswith(("error", "interrupted"))]
    return " ".join(lines[-1:])[:400]


def _flip(runs: Path, draw: random.Random) -> None:
    files = [path for path in sorted(runs.rglob("*")) if path.suffix in _NUMBERS and path.stat().st_size]
    if files:
        path = draw.choice(files)
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)


@contextlib.contextmanager
def _disk(place: Path, *, small: bool) -> Any:
    """Make a folder, with a small disk of its own where that is asked for and allowed; yield whether it has one."""
    place.mkdir(parents=True)
    mounted = False
    if small and sys.platform == "linux" and os.geteuid() == 0:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


def main() -> int:
    """Run the trials, print their table; return 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to go on with a campaign")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--until", default="report", help="the last stage (report)")
    parser.add_argument("--log", type=Path, help="a line of JSON a trial is added here")
    given = parser.parse_args()
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), given.until)
        print(f"seed {given.seed}, {campaign.events} events a run", flush=True)
        for number in range(given.first, given.first + given.trials):
            start = time.monotonic()
            trials.append(campaign.trial(number, given.seed, given.kind))
            one = trials[-1]
            seconds = time.monotonic() - start
            print(
                f"{one.number:4} {one.kind:6} at {one.event:4} ({one.stage}), {seconds:.0f} s: {one.verdict}",
                flush=True,
            )
            if given.log:
                with open(given.log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(one)) + "\n")
    print("\n" + table(trials))
    return int(any(one.verdict != "same" and not one.verdict.startswith("not run") for one in trials))


def table(trials: list[Trial]) -> str:
    """Return the trials by kind and stage: how many, and how many ended with the same result."""
    lines = ["| fault | stage | trials | same result |", "|---|---|---|---|"]
    for kind in KINDS:
        for stage in dict.fromkeys(one.stage for one in trials if one.kind == kind):
            here = [one for one in trials if (one.kind, one.stage) == (kind, stage)]
            lines.append(f"| {kind} | {stage} | {len(here)} | {sum(one.verdict == 'same' for one in here)} |")
    lines.append(f"| all | | {len(trials)} | {sum(one.verdict == 'same' for one in trials)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
