"""The verbs on the command line: parse, call, print. Options, help and checks come from `settings`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import __version__
from .errors import PocketError
from .rundir import Run
from .settings.base import Settings, near, settings_of
from .settings.calling import gather
from .settings.pages import page, summary
from .settings.verbs import VERBS

log = logging.getLogger("pocketvit")

# What other tools call our verbs.
FOREIGN = {
    "val": "bench",
    "validate": "bench",
    "eval": "bench",
    "evaluate": "bench",
    "test": "bench",
    "benchmark": "bench",
    "teach": "train",
    "finetune": "train",
    "fine-tune": "train",
    "fit": "train",
    "pretrain": "train",
    "infer": "predict",
    "inference": "predict",
    "detect": "predict",
    "classify": "predict",
    "convert": "export",
    "quantize": "compress",
    "prune": "compress",
    "generate": "synthesize",
    "invert": "synthesize",
    "cache": "label",
    "labels": "label",
    "recipe": "run",
    "ablate": "compare",
    "sweep": "compare",
}

# And what they, or we in earlier days, call our settings.
FOREIGN_SETTINGS = {
    "--pretrained": "--init pretrained",
    "--learning-rate": "--lr",
    "--img-size": "--size",
    "--imgsz": "--size",
    "--batch": "--batch-size",
    "--target": "--fit",
    "--images": "--data",
}

FIRST_PAGE = ("demo", "distill", "predict", "bench", "report")


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever tidies up after Ctrl-C does so after this too."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 2 the user can mend it, 130 or 143 stopped, 1 a defect of ours."""
    code = answered(argv)
    if code and os.environ.get("WORLD_SIZE", "1") != "1" and "torch" in sys.modules:
        # Torch waits at the end for what was begun with other processes, which may be gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def answered(argv: Sequence[str] | None = None) -> int:
    """Run one verb, and say in one message why it came to no end."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    with contextlib.suppress(AttributeError):  # names of files may hold any bytes; a stream that was put in its place
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    follower = os.environ.get("RANK", "0") != "0"  # under `torchrun` one process speaks
    log.setLevel(logging.WARNING if follower else logging.INFO)
    begun = Run.begun
    try:
        with stopping_on_sigterm():
            code = run(arguments, follower)
            sys.stdout.flush()  # here, where a reader that has gone is expected
            return code
    except PocketError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(f"interrupted. {what_is_left(arguments, begun=Run.begun > begun)}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130
    except BrokenPipeError:  # as in `pocketvit ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("POCKETVIT_DEBUG"):
            raise
        print(
            f"error: {type(error).__name__}: {error}\nThis is a defect of pocketvit, not of your data. What was "
            "finished is kept. Set POCKETVIT_DEBUG=1 and run again for the traceback, and please report it.",
            file=sys.stderr,
        )
        return 1


def run(arguments: Sequence[str], follower: bool) -> int:
    """Read the settings of a verb, check them before anything heavy is imported, call it and print what it returns."""
    if len(arguments) > 1 and arguments[0] == "help":
        arguments = [arguments[1], "--help", *arguments[2:]]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"pocketvit {__version__}")
        return 0
    name, words = arguments[0], modern(arguments)
    if name not in VERBS:
        raise PocketError(unknown_verb(name))
    asked = [place for place, word in enumerate(words) if word in ("-h", "--help")]
    if asked:
        print(page(VERBS[name], *words[asked[0] + 1 :][:1]))
        return 0
    given = said(VERBS[name], words)
    as_json = given.pop("json")
    settings = gather(VERBS[name], given)  # before the verb is imported, and torch with it
    result = function_of(name)(settings)
    if follower:
        return 0
    print(json.dumps(result.data, ensure_ascii=False, allow_nan=False) if as_json else result)
    return int(getattr(result, "exit_code", 0))


def function_of(name: str) -> Callable[[Settings], Any]:
    """Import a verb, and return its function of a settings object."""
    function = getattr(importlib.import_module(f"pocketvit.verbs.{name}"), name)
    return function.__wrapped__


def overview() -> str:
    """The first page: what to type first, then the other stretches of the road."""
    lines = ["pocketvit: big vision models into small vision transformers", "", "first:"]
    width = 2 + max(map(len, VERBS))
    lines += [f"  {name:{width}}{summary(VERBS[name])}" for name in FIRST_PAGE]
    lines += ["", "one stretch of the road at a time:"]
    lines += [f"  {name:{width}}{summary(kind)}" for name, kind in VERBS.items() if name not in FIRST_PAGE]
    lines += ["", "pocketvit VERB --help has a verb's common settings; every verb takes --json and --config FILE."]
    return "\n".join(lines)


def unknown_verb(name: str) -> str:
    """Answer a mistyped or foreign verb."""
    close = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.6)
    guess = FOREIGN.get(name) or (close[0] if close else None)
    hint = (
        f"did you mean `pocketvit {guess}`? ({summary(VERBS[guess])})"
        if guess
        else f"the verbs are {', '.join(VERBS)}."
    )
    return f"there is no verb {name!r}; {hint}"


def what_is_left(arguments: Sequence[str], *, begun: bool) -> str:
    """What an interruption leaves, and how to go on; ``begun`` is whether there is a run to resume."""
    if "--plan" in arguments:
        return f"Nothing was written; type it again: {shlex.join(['pocketvit', *arguments])}"
    line = resume_line(arguments) if begun else shlex.join(["pocketvit", *arguments])
    return f"What was finished is kept; go on with: {line}"


def resume_line(arguments: Sequence[str]) -> str:
    """The command to type after an interruption."""
    words = list(arguments)
    resumes = any(one.name == "resume" for one in settings_of(VERBS[words[0]])) if words[0] in VERBS else False
    if resumes and not any(word.partition("=")[0] == "--resume" for word in words):
        words.insert(words.index("--") if "--" in words else len(words), "--resume")
    return shlex.join(["pocketvit", *words])


@contextlib.contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the verb as Ctrl-C does."""

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # called from a thread, which gets no signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ours, with a suggestion for a mistyped option."""

    def error(self, message: str) -> Any:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        hint = ""
        if unknown:
            meant = FOREIGN_SETTINGS.get(unknown[1], "")
            known = self._option_string_actions
            bare = [one.dest.upper() for one in self._actions if not one.option_strings]
            if unknown[1][2:].upper() in bare:
                hint = f". It has no name: `{self.prog} {' '.join(bare)}`."
            elif meant.partition(" ")[0] in known:
                hint = f". Did you mean {meant}?"
            else:
                verbs = [
                    verb for verb, kind in VERBS.items() if any(one.flag == unknown[1] for one in settings_of(kind))
                ]
                hint = f". It is an option of {', '.join(verbs[:4])}." if verbs else near(unknown[1], known)
        raise PocketError(f"{message}{hint or '.'} `{self.prog} --help` lists the options.")


def parser_of(kind: type[Settings]) -> Parser:
    """Build the parser of a verb, which leaves values as they were typed: settings read and check them."""
    parser = Parser(
        prog=f"pocketvit {kind.verb}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for one in settings_of(kind):
        options: dict[str, Any] = {}
        if one.positional:
            options["nargs"] = "*" if one.many else "?"
        elif one.kinds == {bool}:
            options["action"] = "store_true" if one.name.startswith("no_") else argparse.BooleanOptionalAction
        elif bool in one.kinds:  # a flag that may name something: --resume, --resume runs/photos-1
            options |= {"nargs": "?", "const": True}
        elif one.many:
            options["action"] = "append"
        parser.add_argument(one.name if one.positional else one.flag, **options)
    parser.add_argument("--json", action="store_true", default=False)
    return parser


def said(kind: type[Settings], words: Sequence[str]) -> dict[str, Any]:
    """Return what the words after a verb say, and "json"; the values are text still.

    Raises:
        PocketError: An option that there is not, or one without its value.
    """
    parser = parser_of(kind)
    return vars(parser.parse_args(words) if "--" in words else parser.parse_intermixed_args(words))


def modern(arguments: Sequence[str]) -> list[str]:
    """Return the words after the verb, former options by their new names, and numbers below zero for what they are."""
    known = settings_of(VERBS[arguments[0]]) if arguments[0] in VERBS else ()
    now = {f"--{one.was.replace('_', '-')}": one.flag for one in known if one.was}
    current = {one.flag for one in known}
    words: list[str] = []
    for word in arguments[1:]:
        flag, equals, value = word.partition("=")
        if flag in now and flag not in current and "--" not in words:
            log.info("%s is now %s; taken as that", flag, now[flag])
            word = now[flag] + equals + value
        if re.match(r"-\.?\d", word) and words and words[-1] in current:  # argparse takes -100,200 for an option
            word = f"{words.pop()}={word}"
        words.append(word)
    return words


if __name__ == "__main__":
    sys.exit(main())
