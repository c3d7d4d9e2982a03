"""The command line: every verb and option explained, every mistake answered in one message, results as JSON."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Sequence

import pytest

from pocketvit import cli
from pocketvit.errors import PocketError
from pocketvit.rundir import Outcome
from pocketvit.verbs import VERBS


def verb_of(name):
    return getattr(importlib.import_module(f"pocketvit.verbs.{name}"), name)


def run(capsys, *arguments):
    """Run a command; return its exit code, standard output and standard error."""
    code = cli.main(arguments)
    return code, *capsys.readouterr()


@pytest.fixture
def fake_verb(monkeypatch):
    """Return a function that puts another body into `pocketvit report`, whose parser stays."""

    def replace(body):
        module = importlib.import_module("pocketvit.verbs.report")

        def report(runs: Sequence[str], *, out: str | None = None, no_images: bool = False):
            """Write a report.

            Args:
                runs: run folders
                out: file
                no_images: without pictures
            """
            return body()

        monkeypatch.setattr(module, "report", report)

    return replace


@pytest.mark.parametrize("name", VERBS)
def test_every_option_of_every_verb_has_help(name):
    verb = verb_of(name)
    helps = cli.argument_help(inspect.getdoc(verb))
    assert set(helps) == set(inspect.signature(verb).parameters)
    assert all(len(text) > 2 for text in helps.values())


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb_is_printed(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "--json" in out
    assert "Args:" not in out
    for parameter in inspect.signature(verb_of(name)).parameters.values():
        shown = parameter.name.upper() if parameter.kind is parameter.POSITIONAL_OR_KEYWORD else parameter.name
        assert shown.replace("_", "-") in out.replace("_", "-")


@pytest.mark.parametrize("name", VERBS)
def test_the_command_line_has_the_defaults_of_python(name):
    verb = verb_of(name)
    parameters = inspect.signature(verb).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]
    options = vars(cli.parser_of(name, verb).parse_args(needed))
    assert options.pop("json") is False
    given = {p.name: options[p.name] for p in parameters if p.default is not p.empty}
    assert given == {p.name: p.default for p in parameters if p.default is not p.empty}


def test_kinds_of_options():
    parser = cli.parser_of("distill", verb_of("distill"))
    words = "photos --teacher a --teacher b --no-baseline --lr 1e-3 --epochs 3 --augment strong --plan --no-flip"
    options = vars(parser.parse_args(words.split()))
    assert options["teacher"] == ["a", "b"]
    assert (options["baseline"], options["flip"], options["plan"]) == (False, False, True)
    assert (options["lr"], options["epochs"], options["augment"]) == (0.001, 3, "strong")
    assert options["resume"] is False
    assert parser.parse_args(["photos", "--resume"]).resume is True
    assert parser.parse_args(["--resume", "runs/photos-1"]).resume == "runs/photos-1"
    assert cli.parser_of("predict", verb_of("predict")).parse_args(["run", "a", "b"]).images == ["a", "b"]


def test_without_arguments_the_verbs_are_listed(capsys):
    for arguments in ([], ["--help"], ["help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert all(f"  {name}" in out for name in VERBS)
    assert run(capsys, "--version")[1].startswith("pocketvit 0")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("teach", "train"), ("val", "bench"), ("distil", "distill"), ("predcit", "predict"), ("quantize", "export")],
)
def test_a_mistyped_or_foreign_verb_is_answered_with_ours(typed, meant, capsys):
    code, out, err = run(capsys, typed, "photos")
    assert (code, out) == (2, "")
    assert err == f"error: there is no verb {typed!r}; did you mean `pocketvit {meant}`? ({VERBS[meant]})\n"


def test_a_verb_like_none_lists_them(capsys):
    code, _, err = run(capsys, "xyzzy")
    assert code == 2
    assert "the verbs are demo, distill" in err


def test_every_foreign_word_leads_to_a_verb_that_exists():
    assert set(cli.FOREIGN.values()) <= set(VERBS)
    assert not set(cli.FOREIGN) & set(VERBS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["distill", "photos", "--epoch", "3"], "did you mean --epochs?"),
        (["distill", "photos", "--teachr=x"], "did you mean --teacher?"),
        (["distill", "photos", "--qqq"], "unrecognized arguments: --qqq"),
        (["distill", "photos", "--augment", "heavy"], "invalid choice: 'heavy'"),
        (["distill", "photos", "--epochs", "many"], "invalid int value: 'many'"),
        (["distill", "photos", "--teacher"], "expected one argument"),
        (["train"], "required: IMAGES"),
        (["predict", "run"], "required: IMAGES"),
    ],
)
def test_a_wrong_option_is_one_message(arguments, says, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert f"`pocketvit {arguments[0]} --help` lists the options" in err


def test_json_is_one_line_of_strict_json(fake_verb, capsys):
    fake_verb(lambda: Outcome("for people", {"ü": [1, None]}))
    code, out, _ = run(capsys, "report", "x", "--json")
    assert code == 0
    assert json.loads(out) == {"ü": [1, None]}
    assert out.count("\n") == 1
    assert run(capsys, "report", "x")[1] == "for people\n"


def test_the_exit_code_of_an_outcome_is_the_command_s(fake_verb, capsys):
    fake_verb(lambda: Outcome("one file was broken", {}, exit_code=1))
    assert run(capsys, "report", "x")[:2] == (1, "one file was broken\n")


def raising(error):
    def body():
        raise error

    return body


def test_our_errors_are_one_message_and_exit_2(fake_verb, capsys):
    fake_verb(raising(PocketError("what, where, what to do.")))
    assert run(capsys, "report", "x") == (2, "", "error: what, where, what to do.\n")


def test_ctrl_c_is_one_message_and_exit_130(fake_verb, capsys):
    fake_verb(raising(KeyboardInterrupt()))
    code, out, err = run(capsys, "report", "my run", "--no-images")
    assert (code, out) == (130, "")
    assert err == "interrupted. What was finished is kept; go on with: pocketvit report 'my run' --no-images\n"


def test_the_line_to_resume_with():
    assert cli.resume_line(["distill", "photos", "--epochs", "3"]) == "pocketvit distill photos --epochs 3 --resume"
    assert cli.resume_line(["distill", "--resume", "runs/photos-1"]) == "pocketvit distill --resume runs/photos-1"
    assert cli.resume_line(["label", "my photos"]) == "pocketvit label 'my photos'"


def test_a_defect_of_ours_is_said_to_be_one(fake_verb, capsys, monkeypatch):
    monkeypatch.delenv("POCKETVIT_DEBUG", raising=False)
    fake_verb(raising(ZeroDivisionError("division by zero")))
    code, out, err = run(capsys, "report", "x")
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: division by zero" in err
    assert "defect of pocketvit" in err
    assert "Traceback" not in err
    monkeypatch.setenv("POCKETVIT_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["report", "x"])


def test_arguments_come_from_the_program_s_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pocketvit", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out.startswith("pocketvit ")
