"""The verbs on the command line: parse, call, print.

Every option is a keyword of the verb's Python function, with the same default, and its help is the line of the
function's docstring: nothing is said twice, and the two cannot drift apart.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__
from .errors import PocketError
from .verbs import VERBS

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
    "quantize": "export",
    "cache": "label",
    "labels": "label",
    "recipe": "run",
    "ablate": "compare",
    "sweep": "compare",
}

FIRST_PAGE = ("demo", "distill", "predict", "bench", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0 done, 2 the user can mend it, 130 interrupted, 1 a defect of ours."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"pocketvit {__version__}")
        return 0
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    follower = os.environ.get("RANK", "0") != "0"  # under `torchrun` one process speaks
    logging.getLogger("pocketvit").setLevel(logging.WARNING if follower else logging.INFO)
    try:
        name, rest = arguments[0], arguments[1:]
        if name not in VERBS:
            raise PocketError(unknown_verb(name))
        verb = getattr(importlib.import_module(f"pocketvit.verbs.{name}"), name)
        options = vars(parser_of(name, verb).parse_args(rest))
        as_json = options.pop("json")
        result = call(verb, options)
        if follower:
            return 0
        print(json.dumps(result.data, ensure_ascii=False, allow_nan=False) if as_json else result)
        return int(getattr(result, "exit_code", 0))
    except PocketError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"interrupted. What was finished is kept; go on with: {resume_line(arguments)}", file=sys.stderr)
        return 130
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


def overview() -> str:
    """The first page: what to type first, then the other stretches of the road."""
    lines = ["pocketvit: big vision models into small vision transformers", "", "first:"]
    lines += [f"  {name:9}{VERBS[name]}" for name in FIRST_PAGE]
    lines += ["", "one stretch of the road at a time:"]
    lines += [f"  {name:9}{text}" for name, text in VERBS.items() if name not in FIRST_PAGE]
    lines += ["", "pocketvit VERB --help lists a verb's options; every verb takes --json."]
    return "\n".join(lines)


def unknown_verb(name: str) -> str:
    """Answer a mistyped or foreign verb."""
    close = difflib.get_close_matches(name, VERBS, n=1, cutoff=0.6)
    guess = FOREIGN.get(name) or (close[0] if close else None)
    hint = f"did you mean `pocketvit {guess}`? ({VERBS[guess]})" if guess else f"the verbs are {', '.join(VERBS)}."
    return f"there is no verb {name!r}; {hint}"


def resume_line(arguments: Sequence[str]) -> str:
    """The command to type after an interruption."""
    resumes = ["--resume"] if arguments[0] in ("distill", "train", "demo") and "--resume" not in arguments else []
    return shlex.join(["pocketvit", *arguments, *resumes])


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are ours, with a suggestion for a mistyped option."""

    def error(self, message: str) -> Any:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            close = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        stop = "" if message.endswith("?") else "."
        raise PocketError(f"{message}{stop} `{self.prog} --help` lists the options.")


def parser_of(name: str, verb: Callable[..., Any]) -> Parser:
    """Build the parser of a verb from its signature: what may be positional in Python is positional here."""
    documentation = inspect.getdoc(verb) or ""
    helps = argument_help(documentation)
    parser = Parser(
        prog=f"pocketvit {name}",
        description=documentation.partition("\n\nArgs:")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for parameter in inspect.signature(verb).parameters.values():
        annotation = str(parameter.annotation)
        options: dict[str, Any] = {"help": helps[parameter.name].replace("%", "%%")}
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            options["metavar"] = parameter.name.upper()
            many = annotation.startswith("Sequence")
            if parameter.default is not parameter.empty:
                options.update(nargs="*" if many else "?", default=parameter.default)
            elif many:
                options["nargs"] = "+"
            parser.add_argument(parameter.name, **options)
            continue
        flag = "--" + parameter.name.replace("_", "-")
        options["default"] = parameter.default
        if annotation == "bool | None":  # said, unsaid, or left to what suits
            options["action"] = argparse.BooleanOptionalAction
        elif annotation == "bool":
            options["action"] = argparse.BooleanOptionalAction if parameter.default else "store_true"
        elif annotation.startswith("bool | str"):  # a flag that may name something: --resume, --resume runs/photos-1
            options.update(nargs="?", const=True, metavar="FOLDER")
        else:
            options.update(value_options(annotation))
            if parameter.default not in (None, ""):
                options["help"] += f" (default {parameter.default})"
        parser.add_argument(flag, **options)
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    return parser


def value_options(annotation: str) -> dict[str, Any]:
    """Argparse options for a parameter's annotation, e.g. ``int | None`` or ``Literal['fp32', 'bf16']``."""
    options: dict[str, Any] = {}
    choices = re.search(r"Literal\[(.*?)\]", annotation)
    kinds = {kind.strip() for kind in annotation.split("|")}
    if choices:
        options["choices"] = [choice.strip(" '\"") for choice in choices[1].split(",")]
    elif "int" in kinds:
        options.update(type=int, metavar="N")
    elif "float" in kinds:
        options.update(type=float, metavar="X")
    else:
        options["metavar"] = "TEXT"
    if "Sequence[" in annotation:
        options["action"] = "append"
    return options


def argument_help(documentation: str) -> dict[str, str]:
    """Return {parameter: text} from the ``Args:`` section of a Google docstring."""
    section = documentation.partition("\n\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n      +.*)*)", section, flags=re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in entries}


def call(verb: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Call a verb with parsed options, positional ones first."""
    parameters = inspect.signature(verb).parameters.values()
    positional = [options.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return verb(*positional, **options)


if __name__ == "__main__":
    sys.exit(main())
