"""`bench runs/*` measures the runs that are there."""

from __future__ import annotations

from pocketvit.road.bench import measurable


def test_what_runs_share_and_unfinished_runs_are_left_out(tmp_path, caplog):
    for name in ("photos-1/student", "photos-2", "shared/labels"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / name) for name in ("photos-1", "photos-2", "shared")]
    assert measurable([*given, "resnet18"]) == [given[0], "resnet18"]
    assert "left out" in caplog.text
    assert measurable(given[2:]) == given[2:]  # it says itself what is wrong
