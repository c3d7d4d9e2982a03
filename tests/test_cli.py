"""The command line: a mistake is one message, at once; results as JSON; an end that tells how to go on."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from pocketvit import cli
from pocketvit.errors import PocketError
from pocketvit.rundir import Outcome
from pocketvit.settings import VERBS, Compress, Distill, Label, Predict, Synthesize, Train
from pocketvit.settings.pages import summary


def run(capsys, *arguments):
    """Run a command; return its exit code, standard output and standard error."""
    code = cli.main(arguments)
    return code, *capsys.readouterr()


def said(kind, line):
    """The settings that a line for the shell gives."""
    given = cli.said(kind, cli.modern([kind.verb, *shlex.split(line)]))
    given.pop("json")
    return kind(**given)


@pytest.fixture
def fake_verb(monkeypatch):
    """Return a function that puts another body into every verb, and then the settings it was called with."""
    seen = []

    def replace(body):
        def function(settings):
            seen.append(settings)
            return body()

        monkeypatch.setattr(cli, "function_of", lambda name: function)
        return seen

    return replace


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder with what commands name."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "my run", "x"):
        (tmp_path / name).mkdir()
    (tmp_path / "names.csv").touch()


def test_settings_are_read_as_they_are_typed():
    words = "photos --teacher a --teacher b --no-baseline --lr 1e-3 --epochs 3 --augment strong --plan --no-flip"
    assert said(Distill, words) == Distill(
        "photos", teacher=["a", "b"], baseline=False, lr=0.001, epochs=3, augment="strong", plan=True, flip=False
    )
    assert said(Distill, "photos").flip is None
    assert said(Distill, "photos --resume").resume is True
    assert said(Distill, "--resume runs/photos-1") == Distill(resume="runs/photos-1")
    assert said(Predict, "run a b").images == ("a", "b")
    assert said(Predict, "run a --top 3 b") == Predict("run", ["a", "b"], top=3)
    assert said(Distill, "--teacher=a photos --teacher-size=32") == Distill("photos", teacher="a", teacher_size=32)
    assert said(Distill, "photos --window -1000,400").window == (-1000, 400)
    assert said(Label, "photos --teacher x --no-plan").plan is False


def test_without_arguments_the_verbs_are_listed(capsys):
    for arguments in ([], ["--help"], ["help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert all(f"  {name}" in out for name in VERBS)
        assert max(map(len, out.splitlines())) <= 130
    assert run(capsys, "--version")[1].startswith("pocketvit 0")


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb_is_printed(name, capsys):
    for arguments in (["--help"], ["-h"], ["some", "words", "--help", "all"], ["--help", "output"]):
        code, out, err = run(capsys, name, *arguments)
        assert (code, err) == (0, "")
        assert out.startswith(f"pocketvit {name} ")
    assert run(capsys, name, "--help", "xyzzy")[0] == 2
    assert run(capsys, "help", name, "output")[1] == out


def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    program = "import sys; from pocketvit import cli; sys.exit(cli.main(['help']))"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert b"Error" not in process.communicate()[1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("teach", "train"), ("val", "bench"), ("distil", "distill"), ("predcit", "predict"), ("quantize", "compress")],
)
def test_a_mistyped_or_foreign_verb_is_answered_with_ours(typed, meant, capsys):
    code, out, err = run(capsys, typed, "photos")
    assert (code, out) == (2, "")
    assert err == f"error: there is no verb {typed!r}; did you mean `pocketvit {meant}`? ({summary(VERBS[meant])})\n"


def test_a_verb_like_none_lists_them(capsys):
    code, _, err = run(capsys, "xyzzy", "--help")
    assert code == 2
    assert "the verbs are demo, distill" in err


def test_every_foreign_word_leads_to_a_verb_that_exists():
    assert set(cli.FOREIGN.values()) <= set(VERBS)
    assert not set(cli.FOREIGN) & set(VERBS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["distill", "photos", "--epcohs", "3"], "Did you mean --epochs?"),
        (["compare", "photos", "--hours", "1"], "It is an option of distill, train."),
        (["distill", "photos", "--teachr=x"], "Did you mean --teacher?"),
        (["distill", "photos", "--no-baselin"], "Did you mean --no-baseline?"),
        (["distill", "photos", "--qqq"], "unrecognized arguments: --qqq."),
        (["distill", "photos", "more"], "unrecognized arguments: more."),
        (
            ["distill", "photos", "--augment", "heavy"],
            "--augment heavy: give one of auto, none, light, medium, strong, hard.",
        ),
        (["distill", "photos", "--epochs", "many"], "--epochs many: give a whole number"),
        (["distill", "photos", "--epochs", "-3"], "--epochs -3: give a whole number"),
        (["distill", "photos", "--teacher"], "argument --teacher: expected one argument."),
        (["distill", "photos", "--teacher", ""], "--teacher '': this names nothing."),
        (["distill", "photo", "--teacher", "x"], "there is no photo. Did you mean photos?"),
        (["distill", "photos", "--table", "name.csv"], "Did you mean names.csv?"),
        (["train"], "name the images, as in `pocketvit train photos/`"),
        (["predict", "x"], "IMAGES is missing: `pocketvit predict MODEL IMAGES`."),
        (["distill", "photos", "--pretrained"], "unrecognized arguments: --pretrained."),
        (["train", "photos", "--pretrained"], "Did you mean --init pretrained?"),
        (["distill", "photos", "--learning-rate", "1"], "Did you mean --lr?"),
        (["distill", "photos", "--target", "3MB"], "Did you mean --fit?"),
        (["distill", "--images", "photos"], "It has no name: `pocketvit distill IMAGES`."),
        (["compress", "--model", "run", "--prune", "0.5"], "It has no name: `pocketvit compress MODEL`."),
        (["synthesize", "--teacher", "x", "--images", "photos"], "Did you mean --data?"),
        (["distill", "photos", "--prune-ratio", "0.3"], "Leave it away, or make some: --data-free without IMAGES."),
        (["distill", "photos", "--statistics"], "this is for images made from the teacher. Leave it away"),
        (["distill", "--count", "9", "--teacher", "x"], "this is for images made from the teacher. Add --data-free."),
    ],
)
def test_a_wrong_setting_is_one_message(arguments, says, there, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(
    "line",
    [
        "distil photos",
        "distill photos --epcohs 3",
        "distill photos --epochs 0",
        "distill nowhere --teacher resnet18",
        "distill photos --teacher no/teacher",
        "bench runs/nothing-1",
        "distill --help all",
        "distill photos --config nowhere.yaml",
    ],
)
def test_a_mistake_never_waits_for_torch(line, tmp_path):
    (tmp_path / "photos").mkdir()
    program = (
        "import sys; from pocketvit import cli; code = cli.main(sys.argv[1:]); "
        "print([name for name in ('torch', 'numpy', 'timm', 'PIL') if name in sys.modules]); sys.exit(code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.stdout.splitlines()[-1] == "[]"
    assert found.returncode == (0 if "--help" in line else 2)
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        (Distill, "x --teacher a --input 32 --norm half", "x --teacher a --teacher-size 32 --teacher-norm half"),
        (Distill, "x --input=32 --teacher a", "x --teacher-size=32 --teacher a"),
        (Distill, "x --labels names.csv", "x --table names.csv"),
        (VERBS["bench"], "x --input 32 --norm half", "x --input-size 32 --norm half"),
        (VERBS["export"], "x --input 32", "x --input-size 32"),
        (Train, "x --weights w", "x --init w"),
    ],
)
def test_former_names_are_taken_with_a_note(kind, old, new, caplog):
    with caplog.at_level(logging.INFO, "pocketvit"):
        assert said(kind, new) == said(kind, old)
    notes = [record.getMessage() for record in caplog.records]
    assert all(note.endswith("; taken as that") for note in notes)
    assert notes[0].split()[0] in old
    assert len(notes) == len({"--input", "--norm", "--labels", "--weights"} & set(old.replace("=", " ").split())) - (
        "--norm" in new.split()
    )


def test_the_scenario_of_scans_is_taken_word_for_word(there, fake_verb, capsys, caplog):
    seen = fake_verb(lambda: Outcome("done"))
    code, _, _ = run(capsys, "distill", "photos", "--labels", "names.csv", "--group", "patient", "--folds", "5")
    assert code == 0
    assert seen == [Distill("photos", table="names.csv", group="patient", folds=5)]
    assert caplog.messages == ["--labels is now --table; taken as that"]


@pytest.mark.parametrize(
    ("kind", "line", "same"),
    [
        (Distill, "--data-free --teacher a.th --arch cifar_resnet56 --input 32 --norm imagenet --test photos",
         {"data_free": True, "teacher": "a.th", "arch": "cifar_resnet56", "teacher_size": 32,
          "teacher_norm": "imagenet", "test": "photos"}),
        (Distill, "photos --resume --hours +0.5", {"images": "photos", "resume": True, "hours": "+0.5"}),
        (Distill, "photos/ --fit 3MB,20ms", {"images": "photos", "fit": "3MB,20ms"}),
        (Distill, "photos --student local-dir:P", {"images": "photos", "student": "local-dir:P"}),
        (Distill, "--data-free --teacher f --data few/", {"data_free": True, "teacher": "f", "data": "few"}),
        (Synthesize, "--teacher f --arch n --count 5000", {"teacher": "f", "arch": "n", "count": 5000}),
        (Compress, "RUN --prune 0.5 --recover", {"model": "RUN", "prune": 0.5, "recover": True}),
        (Compress, "RUN --quantize static", {"model": "RUN", "quantize": "static"}),
    ],
)  # fmt: skip
def test_what_scenarios_type_is_understood(kind, line, same, monkeypatch):
    monkeypatch.setitem(cli.VERBS, kind.verb, kind)
    assert said(kind, line) == kind(**same)


def test_any_verb_starts_from_a_file_and_what_the_shell_says_goes_over_it(there, fake_verb, capsys, tmp_path):
    seen = fake_verb(lambda: Outcome("done"))
    (tmp_path / "run.yaml").write_text("verb: distill\nimages: photos\nepochs: 7\nbaseline: false\n")
    assert run(capsys, "distill", "--config", "run.yaml", "--epochs", "3", "--baseline")[0] == 0
    assert seen == [Distill("photos", epochs=3)]
    assert "`pocketvit distill --config run.yaml`" in run(capsys, "train", "--config", "run.yaml")[2]


def test_json_is_one_line_of_strict_json(there, fake_verb, capsys):
    fake_verb(lambda: Outcome("for people", {"ü": [1, None]}))
    code, out, _ = run(capsys, "report", "x", "--json")
    assert code == 0
    assert json.loads(out) == {"ü": [1, None]}
    assert out.count("\n") == 1
    assert run(capsys, "report", "x")[1] == "for people\n"


def test_the_exit_code_of_an_outcome_is_the_command_s(there, fake_verb, capsys):
    fake_verb(lambda: Outcome("one file was broken", {}, exit_code=1))
    assert run(capsys, "report", "x")[:2] == (1, "one file was broken\n")


def test_under_torchrun_one_process_speaks(there, fake_verb, capsys, monkeypatch):
    fake_verb(lambda: Outcome("for people"))
    monkeypatch.setenv("RANK", "1")
    assert run(capsys, "report", "x") == (0, "", "")


def raising(error):
    def body():
        raise error

    return body


def test_our_errors_are_one_message_and_exit_2(there, fake_verb, capsys):
    fake_verb(raising(PocketError("what, where, what to do.")))
    assert run(capsys, "report", "x") == (2, "", "error: what, where, what to do.\n")


def test_ctrl_c_is_one_message_and_exit_130(there, fake_verb, capsys):
    fake_verb(raising(KeyboardInterrupt()))
    code, out, err = run(capsys, "report", "my run", "--no-images")
    assert (code, out) == (130, "")
    assert err == "interrupted. What was finished is kept; go on with: pocketvit report 'my run' --no-images\n"


def test_an_interrupted_plan_has_nothing_to_go_on_with(there, fake_verb, capsys):
    fake_verb(raising(KeyboardInterrupt()))
    _, _, err = run(capsys, "distill", "my run", "--plan")
    assert err == "interrupted. Nothing was written; type it again: pocketvit distill 'my run' --plan\n"


def test_sigterm_ends_like_ctrl_c_with_143(there, fake_verb, capsys):
    tidied = []

    def body():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            tidied.append(True)
            raise

    before = signal.getsignal(signal.SIGTERM)
    fake_verb(body)
    code, out, err = run(capsys, "distill", "my run")
    assert (code, out, tidied) == (143, "", [True])
    assert err == "interrupted. What was finished is kept; go on with: pocketvit distill 'my run'\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_verb_runs_in_a_thread_too(there, fake_verb, capsys):
    fake_verb(lambda: Outcome("done"))
    codes = []
    thread = threading.Thread(target=lambda: codes.append(cli.main(["report", "x"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["distill", "photos", "--epochs", "3"], "pocketvit distill photos --epochs 3 --resume"),
        (["distill", "--resume", "runs/photos-1"], "pocketvit distill --resume runs/photos-1"),
        (["distill", "--resume=runs/photos-1"], "pocketvit distill --resume=runs/photos-1"),
        (["train", "--epochs", "3", "--", "-odd"], "pocketvit train --epochs 3 --resume -- -odd"),
        (["label", "my photos"], "pocketvit label 'my photos'"),
    ],
)
def test_the_line_to_resume_with_can_be_pasted(typed, line):
    assert cli.resume_line(typed) == line
    kind = VERBS[typed[0]]
    before, after = (said(kind, shlex.join(words[1:])) for words in (typed, shlex.split(line)[1:]))
    assert [name for name, value in vars(before).items() if getattr(after, name) != value] in ([], ["resume"])


def test_a_defect_of_ours_is_said_to_be_one(there, fake_verb, capsys, monkeypatch):
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
