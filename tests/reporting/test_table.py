"""The table never quotes a student alone, never guesses a figure, and is safe to print."""

from __future__ import annotations

import html.parser
import re

import pytest

from pocketvit.reporting.results import with_company
from pocketvit.reporting.table import Table
from pocketvit.reporting.text import human_count, percent

TEACHER = {
    "key": "t", "name": "teacher", "role": "teacher", "status": "measured", "accuracy": 0.972,
    "interval": [0.95, 0.985], "n": 360, "ece": 0.012, "min_class": ["8", 0.914], "parameters": 270_000,
    "flops": 41_000_000, "bytes": 1_100_000, "latency_ms": {"p50": 2.1, "p90": 2.4}, "memory_mb": 22,
}  # fmt: skip
STUDENT = {**TEACHER, "key": "s", "name": "student, distilled", "role": "student", "agreement": 0.95, "bytes": 540_000}
ALONE = {**TEACHER, "key": "a", "name": "student alone", "role": "baseline", "accuracy": 0.9, "interval": [0.86, 0.93]}


def test_columns_are_aligned_without_boxes():
    text = Table([TEACHER, STUDENT, ALONE]).text(200)
    lines = text.split("\n\n")[0].splitlines()
    assert not set("|+─│") & set(text)
    ends = [re.search(r"accuracy|\d+\.\d %", line).end() for line in lines]
    assert len(set(ends)) == 1
    assert "95.0–98.5" in lines[1]
    assert "2.10 / 2.40" in lines[1]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_blocks_fit_the_terminal_and_lose_no_column(width):
    table = Table([TEACHER, STUDENT, ALONE], machine={"cpu": "A long processor name " * 4, "threads": 1})
    text = table.text(width)
    assert max(map(len, text.splitlines())) <= width
    assert all(column.title in text for column in table.columns)


def test_a_student_is_never_alone():
    rows = with_company([STUDENT])
    assert [(row.role, row.measured) for row in rows] == [("teacher", False), ("student", True), ("baseline", False)]
    assert Table([STUDENT]).text(200).count("not run") == 2
    assert [row.key for row in with_company([TEACHER, STUDENT, ALONE])] == ["t", "s", "a"]
    assert with_company(rows) == rows


def test_without_a_student_nothing_is_added():
    assert len(with_company([TEACHER, {"key": "m", "name": "any model"}])) == 2


def test_what_is_missing_says_so():
    rows = [TEACHER, {"key": "s", "name": "student", "role": "student", "bytes": 5}, {**ALONE, "status": "not run"}]
    text = Table(rows).text(200)
    student, alone = (line for line in text.splitlines() if line.startswith("student"))
    assert "unknown" in student
    assert "–" in student
    assert "not run" in alone
    assert "nan" not in Table([{**STUDENT, "accuracy": float("nan"), "ece": None}]).text(200)


def test_a_column_that_nobody_fills_is_left_out():
    titles = [column.title for column in Table([{"key": "m", "name": "m", "bytes": 5}]).columns]
    assert titles == ["accuracy", "file"]


def test_the_footer_holds_command_machine_n_and_the_uncalibrated_mark():
    table = Table(
        [TEACHER, {**STUDENT, "calibrated": False, "note": "few labels"}, ALONE],
        scored_on="the test split of photos",
        machine={"cpu": "Cortex-A76", "cores": 4, "threads": 1, "torch": "2.15.0"},
        command="pocketvit distill photos/",
    )
    text = table.text(200)
    for part in ("test split of photos", "95 % interval", "Cortex-A76, 4 cores, 1 thread", "pocketvit distill photos/"):
        assert part in text
    assert "0.012*" in text
    assert "* uncalibrated" in text
    assert "student, distilled¹" in text
    assert "¹ few labels" in text


def test_a_command_can_be_pasted_from_any_width():
    command = "pocketvit distill 'my photos' --teacher 'local-dir:big one' --no-baseline"
    text = Table([TEACHER, STUDENT, ALONE], command=command).text(40)
    assert text.splitlines()[-1] == f"command: {command}"


def test_control_characters_of_a_name_do_not_reach_the_terminal():
    text = Table([{**TEACHER, "name": "evil\x1b[2Jname\n", "min_class": ["\x07bell", 0.5]}]).text(200)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_wide_characters_keep_the_columns_straight():
    lines = Table([{**TEACHER, "name": "教師"}, {**TEACHER, "key": "b", "name": "abcd"}]).text(200).splitlines()
    assert lines[1].replace("教師", "abcd") == lines[2]


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


def test_names_are_escaped_in_html_and_markdown():
    evil = "<script>alert(1)</script>|`x`"
    table = Table([{**TEACHER, "name": evil, "note": evil, "min_class": [evil, 0.5]}], command=evil)
    parser = _Tags()
    parser.feed(table._repr_html_())
    assert parser.tags == {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "br"}
    markdown = table.markdown()
    assert "<script" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_figures_carry_as_many_digits_as_their_images():
    assert percent(0.93394, 360) == "93.4 %"
    assert percent(0.93394, 10_000) == "93.39 %"
    assert [human_count(x) for x in (None, 12, 270_000, 1_050_000, 4.1e9)] == ["–", "12", "270 k", "1.05 M", "4.1 G"]


def test_the_table_of_a_run_takes_what_results_json_holds():
    value = {"rows": [TEACHER], "command": "pocketvit bench", "dataset": {"name": "photos", "scored_on": "val"}}
    text = Table.of(value).text(200)
    assert "pocketvit bench" in text
    assert "the val split of photos" in text


def test_an_empty_table_is_still_text():
    assert Table([]).text(80) == ""
    assert "<table" in Table([])._repr_html_()


SCREENED = {
    **TEACHER, "auc": 0.9134, "auc_interval": [0.8812, 0.9401], "balanced_accuracy": 0.813, "sensitivity": 0.857,
    "sensitivity_interval": [0.722, 0.933], "specificity": 0.5, "threshold": 0.25, "positive": "malignant",
    "chosen": "Youden's J on 78 validation images",
}  # fmt: skip


def test_auc_and_both_kinds_of_error_stand_with_their_intervals():
    text = Table([SCREENED, {**ALONE, "auc": 0.5}]).text(300)
    teacher, alone = text.splitlines()[1:3]
    assert "0.913 (0.881–0.940)" in teacher
    assert "81.3 %" in teacher
    assert "85.7 % (72–93)" in teacher
    assert " 50.0 % " in teacher
    assert " 0.500 " in alone
    assert "sensitivity, specificity: of malignant, at each row's own threshold, by Youden's J on 78" in text
    assert "AUC: area under the ROC curve" in text
    assert text.count("threshold") == 1


def test_columns_of_other_tasks_are_left_out():
    titles = {column.title for column in Table([TEACHER, ALONE]).columns}
    assert not titles & {"AUC", "balanced", "kappa", "MAE", "sensitivity", "specificity"}
    graded = Table([{**TEACHER, "kappa": 0.54, "kappa_interval": [0.45, 0.63], "mae": 0.617}])
    assert {"kappa", "MAE"} <= {column.title for column in graded.columns}
    assert "0.540 (0.450–0.630)" in graded.text(300)
    assert "0.62" in graded.text(300)


def test_balanced_accuracy_is_shown_only_where_it_says_more():
    same = Table([{**TEACHER, "balanced_accuracy": 0.972}, {**ALONE, "balanced_accuracy": 0.9}])
    assert "balanced" not in {column.title for column in same.columns}
    other = Table([{**TEACHER, "balanced_accuracy": 0.972}, {**ALONE, "balanced_accuracy": 0.89}])
    assert "balanced" in {column.title for column in other.columns}


def test_intervals_over_patients_say_so():
    value = {"rows": [{**TEACHER, "groups": 35}], "dataset": {"name": "scans", "group": "patient"}}
    assert "intervals are over 35 groups (patient): images of one group are not independent" in Table.of(value).text(
        200
    )
    assert "independent" not in Table([TEACHER]).text(200)


def test_accuracies_of_several_labels_count_labels():
    value = {"rows": [TEACHER], "dataset": {"name": "chest", "task": "multi-label"}}
    assert "share of the labels of the test split of chest (n images) that is right (a label is there" in Table.of(
        value
    ).text(200)
