"""`make fuzz`: broken files in front of everything that reads one.

    python tests/campaigns/fuzz.py --inputs 2000 --seed 7

A reader gets a file of ours with bytes changed, cut, doubled or put in, or (where it is text) with values exchanged for
others. It must read it or refuse it with a `PocketError`, within `SECONDS` and `MEMORY`. Anything else is a crash, and
the file is kept. Nothing is ever run that a file holds: the weights file carries a call that would leave a trace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS), str(TESTS / "campaigns"), *(str(TESTS / room) for room in ("labels", "training", "sources"))]

import readers  # noqa: E402 (beside this file)

from pocketvit.errors import PocketError  # noqa: E402

SECONDS = 20  # of the processor for one input; more is a hang
MEMORY = 3 << 30  # bytes of one input, above what the libraries take

_TOKENS = (
    b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"NaN", b"-1", b"1e999", b"99999999999999999999", b"\xe2\x80\xa8", b'"',
    b"[" * 2000, b"{}", b"null", b"\r\n", b",", b"'", b"\xc3\x28", b": ", b"- ", b"&a *a", b"!!python/object:os.system",
)  # fmt: skip
_EDITS = ("flip", "set", "cut", "drop", "double", "token")
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 2**70, 1e300, "", "x" * 3000, "nan", [], {}, [[]], [None], {"a": {}}, "\ud800", "\u2028",
)  # fmt: skip


class Reader(NamedTuple):
    """One way into the program.

    Attributes:
        make: Writes whole files into a folder, and returns the one that is broken.
        read: Reads that file as the program does.
        text: "json" where values are exchanged too.
        slow: How many times fewer inputs it is given, where one is large, or reading it makes a network.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    text: str = ""
    slow: int = 1


READERS: dict[str, Reader] = {name: Reader(*parts) for name, parts in readers.ALL.items()}


@dataclass
class Tally:
    """What became of the inputs of one reader."""

    reader: str
    inputs: int = 0
    read: int = 0
    refused: int = 0
    crashes: list[str] = field(default_factory=list)
    seconds: float = 0.0


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a file's bytes with one to four edits; half of them near the head, where the structure stands."""
    place = st.one_of(st.integers(0, min(600, len(data))), st.integers(0, len(data)))
    for _ in range(draw(st.integers(1, 4))):
        at, kind = min(draw(place), len(data)), draw(st.sampled_from(_EDITS))
        if kind == "token":
            data = data[:at] + draw(st.sampled_from(_TOKENS)) + data[at:]
        elif kind == "cut":
            data = data[:at]
        elif kind in ("drop", "double"):
            end = at + draw(st.integers(1, 64))
            data = data[:at] + (data[at:end] * 3 if kind == "double" else b"") + data[end:]
        elif at < len(data):
            byte = draw(st.integers(0, 255)) if kind == "set" else data[at] ^ (1 << draw(st.integers(0, 7)))
            data = data[:at] + bytes([byte]) + data[at + 1 :]
    return data


@st.composite
def exchanged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a JSON file with one to three of its values exchanged, left out or put elsewhere."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(tree))
        if not places:
            break
        owner, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("value", "away", "moved")))
        if what == "away":
            del owner[key]
        else:
            other, name = draw(st.sampled_from(places))
            value = other[name] if what == "moved" else draw(st.sampled_from(_VALUES))
            owner[key] = json.loads(json.dumps(value))  # a copy: the next edit may be inside it
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


class Hang(BaseException):
    """Too long; no reader's own `except Exception` is to take it for something else."""


def campaign(name: str, inputs: int, seed: int, kept: Path | None = None) -> Tally:
    """Put ``inputs`` broken files before a reader; crashes are kept as files in ``kept``."""
    reader, tally, start = READERS[name], Tally(name), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = reader.make(Path(folder))
        whole = path.read_bytes()
        with contextlib.suppress(PocketError):  # of the one that would run code
            reader.read(path)
        files = st.one_of(broken(whole), exchanged(whole)) if reader.text == "json" else broken(whole)

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=inputs, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        @hypothesis.given(files)
        def each(data: bytes) -> None:
            path.write_bytes(data)
            tally.inputs += 1
            try:
                with _limited():
                    reader.read(path)
                tally.read += 1
            except PocketError:
                tally.refused += 1
            except (Exception, Hang) as error:
                tally.crashes.append(f"{type(error).__name__}: {str(error)[:150]}")
                if kept is not None:
                    kept.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, kept / f"{name.replace(' ', '-')}-{len(tally.crashes)}{path.suffix}")

        each()
    tally.seconds = time.monotonic() - start
    return tally


class _limited:
    """A limit of processor time for one input, and a long one of the clock, which a busy machine may stretch."""

    def __enter__(self) -> None:
        for number, timer, seconds in (
            (signal.SIGPROF, signal.ITIMER_PROF, SECONDS),
            (signal.SIGALRM, signal.ITIMER_REAL, 30 * SECONDS),
        ):
            signal.signal(number, self._late)
            signal.setitimer(timer, seconds)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _late(*_: object) -> None:
        raise Hang(f"longer than {SECONDS} s")


def _alone(name: str, inputs: int, seed: int, kept: Path, answer: Any) -> None:
    """Run one campaign in a process of its own, so that a crash of a library ends nothing else."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    answer.send(asdict(campaign(name, inputs, seed, kept)))


def main() -> int:
    """Run the campaigns, print their table; return 1 where something crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one reader")
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz"), help="where files that crash a reader go")
    given = parser.parse_args()
    context = multiprocessing.get_context("fork")  # nothing has run yet, and no thread is there
    print(f"seed {given.seed}\n\n| reader | inputs | read | refused | crashes | seconds |\n|---|---|---|---|---|---|")
    failed = False
    for name in [given.only] if given.only else READERS:
        here, there = context.Pipe(duplex=False)
        inputs = -(-given.inputs // READERS[name].slow)
        process = context.Process(target=_alone, args=(name, inputs, given.seed, given.kept, there))
        process.start()
        there.close()
        try:
            tally = Tally(**here.recv())
        except EOFError:
            process.join()
            tally = Tally(name, crashes=[f"the process ended with {process.exitcode}"])
        failed |= bool(tally.crashes)
        print(
            f"| {name} | {tally.inputs:,} | {tally.read:,} | {tally.refused:,} | {len(tally.crashes)} "
            f"| {tally.seconds:.0f} |",
            flush=True,
        )
        for crash in dict.fromkeys(tally.crashes):
            print(f"    {crash}", file=sys.stderr, flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
