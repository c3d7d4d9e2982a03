"""`make faults`: blows at random moments of `distill`, and what it ends with when it goes on.

    python tests/campaigns/faults.py --faults 200 --seed 7

Each fault is drawn from a seed of its own, which its line shows. A command on sixty drawn pictures is struck: it is
killed, told to end, its disk is full, pictures vanish, or a bit of a file turns while nobody works there. Then what was
taken away is given back and the same command goes on with ``--resume``. It must end as the unbroken one, to the bit, or
say in one message what it cannot use; what that message names is then removed, and it must end so. Everything else is
a loss: a traceback, a hang, other weights, other figures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
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
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors.numpy import load_file

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

from walk_fakes import CHOICES, draw_photos  # noqa: E402

from pocketvit import cli  # noqa: E402
from pocketvit.errors import PocketError  # noqa: E402
from pocketvit.files import read_arrays, read_json  # noqa: E402
from pocketvit.training import loop  # noqa: E402

SECONDS = 900.0  # of one command, on a busy machine; more is a hang
# Files that no checksum covers (docs/reliability.md): a bit of these may turn unseen.
_UNCOVERED = ("model.safetensors", "config.yaml", "results.json", "metrics.jsonl", "train.log")


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote to standard error."""

    code: int | None
    said: str

    @property
    def in_one_message(self) -> bool:
        return self.code == 2 and self.said.count("error: ") == 1 and "defect" not in self.said


class World:
    """Pictures and runs in a folder of their own.

    Args:
        root: The folder; empty.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.photos, self.runs = root, draw_photos(root / "photos"), root / "runs"
        self.struck = ""  # what a blow hit, for the line of a loss

    def start(self) -> tuple[multiprocessing.Process, Path]:
        """Start the command, or go on with it; return its process and the file that it speaks into."""
        said = self.root / "said.txt"
        process = multiprocessing.get_context("fork").Process(target=_distill, args=(self.photos, self.runs, said))
        process.start()
        return process, said

    def run(self) -> Ended:
        return ended(*self.start())

    @property
    def run_folder(self) -> Path:
        """The newest that has begun."""
        return max(self.runs.glob("photos-*/config.yaml"), key=lambda path: path.stat().st_mtime).parent


def _distill(photos: Path, runs: Path, said: Path) -> None:
    """Run the command in this process, which ends with its exit code."""
    loop.SAVE_SECONDS = 0.0  # after every step: a blow between two savings costs these alone
    words = [f"--{name.replace('_', '-')}={value}" for name, value in CHOICES.items()]
    words += ["--resume"] if any(runs.glob("photos-*/config.yaml")) else []
    file = open(said, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115 (to the end)
    os.dup2(file.fileno(), 2)
    sys.stderr, sys.stdout = file, io.StringIO()
    code = cli.main(["distill", str(photos), "--teacher=walk_fakes:make_own", f"--out={runs}", *words])
    os._exit(code)


def ended(process: multiprocessing.Process, said: Path) -> Ended:
    """Wait for a command."""
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return Ended(None, "it hung")
    return Ended(process.exitcode, said.read_text(encoding="utf-8", errors="replace") if said.exists() else "")


def outcome(run: Path) -> dict[str, object]:
    """What a run came to: every weight, every answer, every figure of its table that is no time."""
    found: dict[str, object] = {}
    for place in ("checkpoints", "alone/checkpoints"):
        tensors = load_file(run / place / "last.safetensors")
        found |= {f"{place}/{name}": array.tobytes() for name, array in tensors.items()}
    found |= {name: array.tobytes() for name, array in read_arrays(run / "predictions.npz").items()}
    rows = read_json(run / "results.json")["rows"]
    return found | {f"{row['key']} {key}": str(row.get(key)) for row in rows for key in ("accuracy", "ece", "status")}


class Unbroken(NamedTuple):
    """What a run that nothing struck took and came to."""

    seconds: float
    bytes: int
    outcome: dict[str, object]


# Blows: each strikes a world at a moment drawn from `chance`, and returns (how the command ended, how to mend it).
Mend = Callable[[], None]


def _at_some_time(world: World, chance: random.Random, whole: Unbroken) -> tuple[multiprocessing.Process, Path]:
    process, said = world.start()
    process.join(chance.uniform(0.02, 1.0) * whole.seconds)
    return process, said


def killed(world: World, chance: random.Random, whole: Unbroken) -> tuple[Ended, Mend]:
    process, said = _at_some_time(world, chance, whole)
    process.kill()
    return ended(process, said), lambda: None


def told_to_end(world: World, chance: random.Random, whole: Unbroken) -> tuple[Ended, Mend]:
    process, said = _at_some_time(world, chance, whole)
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, chance.choice((signal.SIGTERM, signal.SIGINT)))
    return ended(process, said), lambda: None


def pictures_vanish(world: World, chance: random.Random, whole: Unbroken) -> tuple[Ended, Mend]:
    process, said = _at_some_time(world, chance, whole)
    while process.is_alive() and not any(world.runs.glob("photos-*/config.yaml")):
        process.join(0.05)  # what vanishes before it is counted makes another run, with fewer pictures
    away = world.root / "away"
    gone = chance.sample(sorted(world.photos.rglob("*.png")), chance.choice((1, 5, 60)))
    for path in gone:
        (away / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.move(path, away / path.parent.name / path.name)
    result = ended(process, said)
    return result, lambda: shutil.copytree(away, world.photos, dirs_exist_ok=True) and None


def a_bit_turns(world: World, chance: random.Random, whole: Unbroken) -> tuple[Ended, Mend]:
    """Kill, then turn one bit of one file that a checksum covers."""
    result, mend = killed(world, chance, whole)
    files = [
        path for path in sorted(world.runs.rglob("*"))
        if path.is_file() and path.stat().st_size and path.name not in _UNCOVERED and ".part" not in path.name
    ]  # fmt: skip
    if files:
        path = chance.choice(files)
        world.struck = str(path.relative_to(world.root))
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
    return result, mend


def disk_full(world: World, chance: random.Random, whole: Unbroken) -> tuple[Ended, Mend]:
    """Begin on a file system that has room for a share of what the run takes."""
    size = int(chance.uniform(0.02, 0.9) * whole.bytes)
    world.runs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(world.runs)], check=True)
    result = world.run()
    more = ["mount", "-o", "remount,size=1G", str(world.runs)]
    return result, lambda: subprocess.run(more, check=True) and None


BLOWS = {
    "killed": killed, "told to end": told_to_end, "pictures vanish": pictures_vanish, "a bit turns": a_bit_turns,
    "disk full": disk_full,
}  # fmt: skip


def judged(world: World, first: Ended, mend: Mend, unbroken: dict[str, object]) -> str:
    """Go on until the run ends, and say how: "the same", "after removing what it named", or what was lost."""
    if first.code == 1 or first.code is None or "Traceback" in first.said:
        return f"lost: {first.said.strip()[-300:]}"
    mend()
    removed = False
    for _ in range(4):
        again = world.run()
        if again.code == 0:
            try:
                found = outcome(world.run_folder)
            except PocketError as told:  # whoever reads a finished run hears of it
                again = Ended(2, f"error: {told}")
        if again.code == 0:
            other = sorted(key for key in found.keys() | unbroken.keys() if found.get(key) != unbroken.get(key))
            if other:
                return f"lost: other {', '.join(other[:4])} ({len(other)} in all)"
            return "after removing what it named" if removed else "the same"
        if not again.in_one_message:
            break
        named = [
            Path(text)
            for text in re.findall(rf"{re.escape(str(world.root))}[^\s:,()]*", again.said.split("error: ")[-1])
        ]
        there = next((path for path in named if path.exists() and world.runs in path.parents), None)
        if there is None:
            break
        removed = True
        shutil.rmtree(there) if there.is_dir() else there.unlink()
    return f"lost: {again.said.strip()[-300:]}"


@contextlib.contextmanager
def fresh_world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        world = World(Path(folder))
        try:
            yield world
        finally:
            if os.path.ismount(world.runs):
                subprocess.run(["umount", "-l", str(world.runs)], check=False)


def campaign(faults: int, seed: int, only: str | None = None) -> dict[str, Counter[str]]:
    """Strike ``faults`` times; return blow -> outcomes, and print every loss with its seed."""
    with fresh_world() as world:
        start = time.monotonic()
        end = world.run()
        seconds = time.monotonic() - start
        if end.code != 0:
            raise SystemExit(f"the unbroken run did not end: {end.said}")
        taken = sum(path.stat().st_size for path in world.runs.rglob("*") if path.is_file())
        whole = Unbroken(seconds, taken, outcome(world.run_folder))
    blows = [only] if only else [name for name in BLOWS if name != "disk full" or os.geteuid() == 0]
    found = {name: Counter[str]() for name in blows}
    for number in range(faults):
        name, key = blows[number % len(blows)], seed * 1_000_003 + number
        with fresh_world() as world:
            first, mend = BLOWS[name](world, random.Random(key), whole)
            result = judged(world, first, mend, whole.outcome)
        found[name][result.split(":")[0]] += 1
        if result.startswith("lost"):
            print(f"fault {number} of seed {seed} ({name} {world.struck}): {result}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Run the campaign, print its table; return 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(BLOWS))
    given = parser.parse_args()
    found = campaign(given.faults, given.seed, given.only)
    ends = ("the same", "after removing what it named", "lost")
    print(f"seed {given.seed}\n\n| blow | faults | {' | '.join(ends)} |\n|---|---|{'---|' * len(ends)}")
    for name, counts in found.items():
        print(f"| {name} | {counts.total()} | {' | '.join(str(counts[end]) for end in ends)} |")
    return int(any(counts["lost"] for counts in found.values()))


if __name__ == "__main__":
    sys.exit(main())
