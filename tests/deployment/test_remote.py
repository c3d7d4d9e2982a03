"""`bench --on`: a device that ssh reaches runs device.zip, keeps nothing of it, and says in one message what fails.

A script stands in for ssh: it runs with ``sh`` what we would send, in a home of its own, as a device would.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys

import pytest

import pocketvit
from pocketvit.deployment import remote, write_device_zip
from pocketvit.errors import PocketError

SSH = """#!/bin/sh
echo "$@" > {home}/said
until [ "$1" = -- ]; do shift; done
shift 2
export HOME={home} TMPDIR={home}/tmp PATH={home}/bin:/usr/bin:/bin
{before}
exec /bin/sh -c "$*"
"""
ANSWERS = '#!/bin/sh\nexec {python} "$@"\n'  # a link would lose the environment's packages


@pytest.fixture(scope="module")
def packed(plain, tmp_path_factory):
    return write_device_zip(tmp_path_factory.mktemp("packed") / "device.zip", plain.int8)


@pytest.fixture
def device(packed, tmp_path, monkeypatch):
    """Return what makes a device: what its ssh does before the command, and what its python3 is."""
    home = tmp_path / "home"
    for name in ("bin", "tmp", "here"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{home / 'here'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(remote, "SECONDS", 0.05)
    monkeypatch.setattr(remote, "write_device_zip", lambda out, file: shutil.copyfile(packed, out))  # made once

    def make(before="", python=ANSWERS):
        for path, text in (
            (home / "here" / "ssh", SSH.format(home=shlex.quote(str(home)), before=before)),
            (home / "bin" / "python3", python.replace("{python}", shlex.quote(sys.executable))),
        ):
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
        return home

    return make


@pytest.fixture
def run(plain, tmp_path):
    """As much of a run as a bench looks at."""
    folder = tmp_path / "my photos-1"
    folder.mkdir()
    shutil.copyfile(plain.int8, folder / "model-int8.onnx")
    for name in ("config.yaml", "results.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_the_device_is_a_row_and_a_run_keeps_its_figures(device, run, caplog):
    caplog.set_level("INFO", "pocketvit")
    home = device("echo 'welcome {\"sha256\": 1}'")  # login scripts may print
    rows = pocketvit.bench(run, on="pi@raspberry").data["rows"]
    here, there = rows
    assert there["name"] == f"{here['name']}, on pi@raspberry"
    assert there["bytes"] == here["bytes"]
    assert there["latency_ms"]["p50"] > 0
    kept = json.loads((run / "device-pi@raspberry.json").read_text(encoding="utf-8"))
    assert (kept["device"], kept["golden"]["matches"]) == ("pi@raspberry", True)
    assert kept["latency_ms"]["p50"] == there["latency_ms"]["p50"]
    assert f"pocketvit report '{run}' --device '{run}/device-pi@raspberry.json'" in caplog.text
    assert not list((home / "tmp").iterdir())
    said = (home / "said").read_text(encoding="utf-8")
    assert "BatchMode=yes" in said
    assert "-- pi@raspberry sh -c " in said


def test_a_device_that_computes_something_else_has_no_accuracy(device, run):
    wrong = 'sed -i \'s/"probability": 0.03/"probability": -1/\' golden.json\n'
    device(python=ANSWERS.replace("exec", f"{wrong}exec"))
    there = pocketvit.bench(run, on="pi").data["rows"][1]
    assert "DOES NOT MATCH on pi" in there["note"]
    assert "parameters" not in there


def test_a_place_with_its_packages_is_preferred(device, plain):
    home = device(python="#!/bin/sh\nexit 1\n")
    (home / "pocketvit-python" / "bin").mkdir(parents=True)
    place = home / "pocketvit-python" / "bin" / "python"
    place.write_text(ANSWERS.replace("{python}", shlex.quote(sys.executable)), encoding="utf-8")
    place.chmod(0o755)
    assert remote.bench_there("pi", plain.int8)["golden"]["matches"]


FIGURES = '{"sha256": "0", "latency_ms": {}}'
FAILURES = {
    "off": ("echo 'ssh: connect to host pi port 22: timed out' >&2; exit 255", "", "pi does not answer: ssh"),
    "password": ("echo 'pi@pi: Permission denied (publickey).' >&2; exit 255", "", "ssh-copy-id pi"),
    "unknown": ("echo 'Host key verification failed.' >&2; exit 255", "", "`ssh pi` by hand"),
    "no shell": ("echo 'no such command'; exit 1", "", "runs no command of ours"),
    "no folder": ("mktemp() { return 1; }; export TMPDIR=/nowhere", "", "could not be written on pi"),
    "no python": ("PATH={home}/only:{home}/here", "", "pi has no python3"),
    "no packages": ("", "#!/bin/sh\nexec /usr/bin/env {python} -S \"$@\"\n", "numpy is missing on pi. Install"),
    "old python": ("", "#!/bin/sh\necho 'SyntaxError: invalid syntax' >&2; exit 1\n", "not run on pi: Syn"),
    "rubbish": ("", "#!/bin/sh\necho 'Segmentation fault'\n", "printed no JSON on pi"),
    "hangs up": ("", "#!/bin/sh\necho 'Connection closed' >&2; exit 255\n", "pi hung up while bench.py ran there"),
    "another file": ("", f"#!/bin/sh\necho '{FIGURES}'\n", "pi measured another file than"),
}  # fmt: skip


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_is_one_message_and_leaves_nothing(what, device, run):
    before, python, message = FAILURES[what]
    home = device("", python or ANSWERS)
    (home / "only").mkdir()
    for name in ("sh", "mktemp", "tar", "rm"):
        (home / "only" / name).symlink_to(shutil.which(name))
    device(before.replace("{home}", shlex.quote(str(home))), python or ANSWERS)
    with pytest.raises(PocketError) as caught:
        pocketvit.bench(run, on="pi")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not list((home / "tmp").iterdir())
    assert {path.name for path in run.iterdir()} == {"model-int8.onnx", "config.yaml", "results.json"}


@pytest.mark.parametrize(
    ("does", "message"),
    [("exec sleep 60", "has not finished after"), ("head -c 2000000 /dev/zero; exec sleep 60", "prints without end")],
)
def test_a_device_that_never_ends_is_left(does, message, device, plain, monkeypatch):
    monkeypatch.setattr(remote, "PATIENCE", 60 if "head" in does else 0.3)
    device(does)
    with pytest.raises(PocketError, match=f"pi {message}"):
        remote.bench_there("pi", plain.int8)


def test_figures_that_are_no_times_are_refused(device, run):
    """A device whose clock stands still is not infinitely fast."""
    stopped = "import json, sys\nfound = json.load(sys.stdin)\nfound['latency_ms']['p50'] = float('nan')\n"
    filter_ = f"{shlex.quote(sys.executable)} -c {shlex.quote(stopped + 'print(json.dumps(found))')}"
    device(python=ANSWERS.replace("exec ", "").replace('"$@"', f'"$@" | {filter_}'))
    with pytest.raises(PocketError, match="what pi printed is not what"):
        pocketvit.bench(run, on="pi")
    assert not (run / "device-pi.json").exists()


def test_without_ssh_the_way_by_hand_is_named(plain, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PocketError, match=r"Install OpenSSH's client, or unpack device\.zip"):
        remote.bench_there("pi", plain.int8)


def test_only_files_that_run_there_are_sent(device, tmp_path):
    home = device()
    for model in ("resnet18", str(tmp_path)):
        with pytest.raises(PocketError, match="--on takes runs and ONNX files"):
            pocketvit.bench(model, on="pi")
    assert not (home / "said").exists()
