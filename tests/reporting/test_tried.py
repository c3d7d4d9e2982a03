"""A report shows every way that `compress --fit` tried, and which went on."""

from __future__ import annotations

from pocketvit.files import read_json, write_json
from pocketvit.reporting.page import write_report
from pocketvit.reporting.results import load_results
from pocketvit.reporting.tried import tried_rows, tried_table

BEFORE = {"name": "as it was", "bytes": 172_000, "ms": 0.3, "score": 1.0, "parameters": None, "note": ""}
WAYS = [
    BEFORE | {"name": "8 bits", "bytes": 69_000, "ms": 0.2, "score": 0.91, "parameters": 40_000, "chosen": True},
    BEFORE | {"name": "4 bits", "bytes": 68_000, "ms": 0.4, "score": 0.88, "parameters": 70_000},
    BEFORE | {"name": "4 bits, shared <2>", "score": None, "ms": None, "note": "not tried: 4 bits is as wide"},
]


def test_each_way_is_a_line_and_those_with_a_score_are_points(run_folder):
    assert tried_table(load_results(run_folder)) is None
    assert "The ways that were tried" not in write_report(run_folder).read_text(encoding="utf-8")
    tried = {"on": "179 validation images", "before": BEFORE, "ways": WAYS}
    write_json(run_folder / "results.json", read_json(run_folder / "results.json") | {"tried": tried})
    results = load_results(run_folder)
    lines = tried_table(results)["lines"]
    assert [line["name"] for line in lines if line["chosen"]] == ["8 bits"]
    assert lines[1]["cells"] == ("40 k", "69 kB", "0.20", "91.0 %")
    assert lines[3]["cells"][3] == "–"
    assert [row.accuracy for row in tried_rows(results)] == [1.0, 0.91, 0.88, None]
    page = write_report(run_folder).read_text(encoding="utf-8")
    for words in ("<b>8 bits</b>", "179 validation images", "not tried: 4 bits is as wide", "shared &lt;2&gt;"):
        assert words in page
    for cost in ("file size", "latency"):
        assert f"Ways that were tried: score against {cost}" in page
    assert "recovered briefly" in page


def test_ways_that_were_not_recovered_are_not_said_to_be(run_folder):
    tried = {"on": "179 validation images", "recovered": False, "before": BEFORE, "ways": WAYS}
    write_json(run_folder / "results.json", read_json(run_folder / "results.json") | {"tried": tried})
    page = write_report(run_folder).read_text(encoding="utf-8")
    assert "none was trained again" in page
    assert "recovered briefly" not in page


def test_rubbish_in_its_place_is_nothing(run_folder):
    for tried in (None, [], {"ways": 3}, {"ways": ["x"], "before": 1}):
        write_json(run_folder / "results.json", read_json(run_folder / "results.json") | {"tried": tried})
        assert tried_table(load_results(run_folder)) is None
