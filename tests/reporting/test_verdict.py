"""Smaller, faster, as good, at equal precision; and when something else is the better thing to ship, that is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import binom

from pocketvit.metrics import wilson_interval
from pocketvit.reporting.gap import gap
from pocketvit.reporting.results import Row
from pocketvit.reporting.verdict import above_chance, verdict
from pocketvit.tasks import task_named

TASK = task_named("classification")


def row(key: str, role: str, accuracy: float | None, size: int | None, ms: float | None, n: int = 1000) -> Row:
    interval = None if accuracy is None else wilson_interval(round(accuracy * n), n)
    return Row(
        key, f"the {key}", role, accuracy=accuracy, interval=interval, n=None if accuracy is None else n, bytes=size,
        latency_p50=ms,
    )  # fmt: skip


TEACHER = row("teacher-1", "teacher", 0.94, 4_000_000, 8.0)
TEACHER_8 = row("teacher-1-int8", "teacher-int8", 0.938, 1_100_000, 4.0)
STUDENT = row("student", "student", 0.935, 1_900_000, 2.0)
INT8 = row("int8", "int8", 0.934, 520_000, 1.0)
ALONE = row("alone", "baseline", 0.90, 1_900_000, 2.0)
ROWS = [TEACHER, TEACHER_8, STUDENT, INT8, ALONE]


def without(*rows):
    return [one for one in ROWS if one not in rows]


def swapped(old, **changes):
    return [replace(one, **changes) if one is old else one for one in ROWS]


def test_a_class_that_is_never_right_is_named():
    blind = swapped(INT8, min_class=("forest", 0.0))
    assert verdict(blind).advice.endswith("But it is never right on forest: look at that class first.")
    assert "never" not in verdict(swapped(INT8, min_class=("forest", 0.1))).advice


def test_a_student_that_is_smaller_faster_and_as_good_is_to_ship():
    found = verdict(ROWS)
    assert found.ship == "int8"
    assert [(reply.question, reply.yes) for reply in found.replies] == [
        ("Smaller", True), ("Faster", True), ("As good", None),
    ]  # fmt: skip
    assert found.lines == (
        "Ship the int8 (520 kB).",
        "Smaller? Yes: 520 kB against 1.1 MB of its teacher's int8 file, 2.1× smaller.",
        "Faster? Yes: 1 ms against 4 ms of its teacher's int8 file, 4.0× faster.",
        "As good? Not known: 93.4 % against 93.8 % of the teacher-1-int8 (0.4 points less, 95 % interval -2.6 to +1.8; "
        "no difference seen on 1,000 images).",
    )


def test_what_real_images_were_worth_is_told():
    bare = row("without", "control", 0.80, 1_900_000, 2.0)
    reply = verdict([*ROWS, bare]).replies[-1]
    assert str(reply).startswith(
        "Real images worth it? Yes: 93.5 % against 80.0 % of the without (13.5 points more, 95 %"
    )
    same = verdict([*ROWS, replace(bare, accuracy=0.94, interval=wilson_interval(940, 1000))])
    assert str(same.replies[-1]).startswith("Real images worth it? Not known: ")
    assert same.advice == verdict(ROWS).advice
    assert len(verdict([*ROWS, replace(bare, accuracy=None, interval=None)]).replies) == 3


def test_int8_is_never_compared_with_fp32():
    found = verdict(without(TEACHER_8))
    assert "1.9 MB against 4 MB of its teacher's fp32 file, 2.1× smaller" in str(found.replies[0])
    assert "2 ms against 8 ms" in str(found.replies[1])
    assert "93.4 % against 94.0 %" in str(found.replies[2])  # but what ships is what is judged
    only = verdict([TEACHER, replace(STUDENT, bytes=None, latency_p50=None), INT8])
    assert [reply.yes for reply in only.replies[:2]] == [None, None]


def test_a_teachers_int8_file_that_has_lost_what_it_knew_is_no_measure():
    broken = replace(TEACHER_8, accuracy=0.167, interval=wilson_interval(167, 1000))
    found = verdict([broken if one is TEACHER_8 else one for one in ROWS])
    assert "2 ms against 8 ms of its teacher's fp32 file" in str(found.replies[1])
    assert "93.4 % against 94.0 % of the teacher-1 " in str(found.replies[2])


def test_the_teachers_own_file_is_to_ship_where_the_student_saves_nothing():
    found = verdict(swapped(TEACHER_8, bytes=500_000, latency_p50=0.7))
    assert found.ship == "teacher-1-int8"
    assert found.advice == (
        "Ship the teacher's own int8 file (the teacher-1-int8) instead: 93.8 % against 93.4 % of the student, which is "
        "about as large and 1.4× slower."
    )
    better = verdict([*without(TEACHER_8, INT8), replace(TEACHER_8, bytes=500_000, latency_p50=0.7),
                      row("int8", "int8", 0.98, 520_000, 1.0)])  # fmt: skip
    assert better.ship == "int8"  # it saves nothing, but it is better, and that is seen


def test_one_saving_is_enough_to_leave_the_choice():
    found = verdict(swapped(TEACHER_8, bytes=500_000))
    assert found.ship == "int8"
    assert "if what it saves is worth what it loses: it is not smaller" in found.advice


def test_the_student_without_a_teacher_is_to_ship_where_it_is_better():
    found = verdict(swapped(ALONE, accuracy=0.96, interval=wilson_interval(960, 1000)))
    assert found.ship == "alone"
    assert "the teacher's labels did not help: the alone has 96.0 % against 93.5 %" in found.advice
    unseen = verdict(swapped(ALONE, accuracy=0.936, interval=wilson_interval(936, 1000)))
    assert unseen.ship == "alone"
    assert "no difference seen on 1,000 images" in unseen.advice


def test_a_large_loss_sends_back_to_the_teacher_and_says_what_else_was_better():
    """As tried on 360 photographs: the teacher 100 %, the student 50 %, the student alone 61 %."""
    rows = [
        row("teacher-1", "teacher", 1.0, 9_000_000, 9.0, 36),
        row("teacher-1-int8", "teacher-int8", 1.0, 2_600_000, 6.0, 36),
        row("student", "student", 0.5, 1_900_000, 2.0, 36), row("int8", "int8", 0.5, 520_000, 1.0, 36),
        row("alone", "baseline", 22 / 36, 1_900_000, 2.0, 36),
    ]  # fmt: skip
    found = verdict(rows, chance=1 / 3)
    assert found.ship == "teacher-1-int8"
    assert "(2.6 MB, 6 ms) if the device takes it: 100.0 % against 50.0 %" in found.advice
    assert "And the teacher's labels did not help: the alone has 61.1 % against 50.0 %" in found.advice
    assert "no difference seen on 36 images" in found.advice


def test_another_network_that_costs_no_more_is_to_ship():
    rival = row("against", "against", 0.95, 1_800_000, 1.9)
    found = verdict([*ROWS, rival])
    assert found.ship == "against"
    assert "Ship the fp32 file (the against) instead: 95.0 % against 93.5 % of the student" in found.advice
    assert verdict([*ROWS, replace(rival, bytes=6_000_000)]).ship == "int8"


@pytest.mark.parametrize(("right", "told"), [(18, True), (16, False), (9, False)])
def test_an_answer_that_chance_gives_too_is_not_to_ship(right, told):
    """A binomial test: 18 of 36 are right by chance one time in thirty where a third would be, 16 one in eight."""
    assert above_chance(right / 36, 36, 1 / 3) == pytest.approx(binom.sf(right - 1, 36, 1 / 3))
    rows = [row("student", "student", right / 36, 1_900_000, 2.0, 36)]
    found = verdict(rows, chance=1 / 3)
    assert (found.ship == "student") is told
    assert ("cannot be told from always giving the commonest answer (33.3 %" in found.advice) is not told


def test_patients_and_not_their_images_are_counted_against_chance():
    rows = [replace(row("student", "student", 0.5, 1, 1.0, 360), groups=12)]
    assert verdict(rows, chance=1 / 3).ship is None
    assert verdict([replace(rows[0], groups=None)], chance=1 / 3).ship == "student"


def test_other_tasks_are_compared_by_their_own_figure():
    labels = task_named("multilabel")
    teacher = Row("teacher-1", "T", "teacher", accuracy=0.9, auc=0.85, auc_interval=(0.82, 0.88), n=500)
    student = Row("student", "S", "student", accuracy=0.95, auc=0.80, auc_interval=(0.77, 0.83), n=500)
    reply = verdict([teacher, student], labels).replies[2]
    assert not reply.yes
    assert "AUC 0.800 against AUC 0.850 of T (0.050 less" in reply.words


@pytest.mark.parametrize(
    ("task", "figures", "told"),
    [
        ("detection", {"map": 0.004, "map_interval": (0.0, 0.01)}, "mAP 0.004 is next to nothing found"),
        ("detection", {"map": 0.2, "map_interval": (0.1, 0.3)}, ""),
        ("multilabel", {"auc": 0.56, "auc_interval": (0.48, 0.64)}, "AUC 0.560 (95 % interval 0.480 to 0.640) cannot"),
        ("multilabel", {"auc": 0.7, "auc_interval": (0.6, 0.8)}, ""),
    ],
)
def test_boxes_and_labels_that_say_nothing_are_not_to_ship_either(task, figures, told):
    found = verdict([replace(row("student", "student", None, 5, 1.0), n=50, **figures)], task_named(task))
    assert (found.ship is None) is bool(told)
    assert told in found.advice


def test_without_figures_nothing_is_claimed():
    assert verdict([TEACHER, row("other", "other", 0.9, 5, 1.0)]) is None
    blind = verdict([replace(one, accuracy=None, interval=None, n=None) for one in ROWS])
    assert blind.replies[2].yes is None
    assert "nobody knows yet how good it is" in blind.advice
    dearer = [replace(one, accuracy=None, interval=None, n=None) for one in swapped(INT8, bytes=2_000_000)]
    dearer = [replace(one, latency_p50=6.0) if one.key == "int8" else one for one in dearer]
    found = verdict(dearer)  # that saves nothing either
    assert found.ship == "teacher-1-int8"
    assert "instead: it taught the student, which is 1.8× larger and 1.5× slower." in found.advice
    lonely = verdict([STUDENT])
    assert lonely.replies == ()
    assert "no teacher was measured beside it" in lonely.advice
    assert verdict([replace(TEACHER, measured=False), STUDENT]).replies == ()


def test_of_several_teachers_the_best_is_the_measure():
    weak = row("teacher-2", "teacher", 0.80, 900_000, 1.5)
    assert "the teacher-1" in verdict([*ROWS, weak]).replies[2].words


def test_a_gap_is_as_wide_as_both_figures_allow():
    """Newcombe's method 10, by hand: d - sqrt((a - l1)^2 + (u2 - b)^2)."""
    a, b = Row("a", "a", accuracy=0.7, interval=(0.6, 0.78)), Row("b", "b", accuracy=0.5, interval=(0.41, 0.59))
    found = gap(a, b, TASK)
    low, high = 0.2 - (0.1**2 + 0.09**2) ** 0.5, 0.2 + (0.08**2 + 0.09**2) ** 0.5
    assert found.interval == pytest.approx((low, high))
    assert found.seen
    assert gap(a, Row("c", "c"), TASK) is None


def test_a_teacher_that_ran_in_pytorch_is_not_raced_against_a_file():
    live = replace(TEACHER, note="trained on your labels; in PyTorch: it does not export to ONNX")
    found = verdict([live, STUDENT, INT8])
    assert found.replies[0].yes
    assert "of its teacher's weights" in str(found.replies[0])
    assert found.replies[1].yes is None
    assert "ran in PyTorch, and not as a file" in str(found.replies[1])
    untimed = replace(TEACHER, latency_p50=None, latency_p90=None)  # of a run that was compressed without it
    assert "its teacher was not timed beside it" in str(verdict([untimed, STUDENT, INT8]).replies[1])


def test_as_good_takes_an_interval_that_says_so():
    few = [row(one.key, one.role, 0.9, one.bytes, one.latency_p50, n=20) for one in ROWS]
    assert [reply.yes for reply in verdict(few).replies] == [True, True, None]
    many = [row(one.key, one.role, 0.9, one.bytes, one.latency_p50, n=20_000) for one in ROWS]
    assert [reply.yes for reply in verdict(many).replies] == [True, True, True]
    assert verdict(many, chance=0.9).replies[-1].yes is None  # both guess


def test_pooled_folds_are_what_a_student_is_judged_by():
    few = [row(one.key, one.role, 0.75, one.bytes, one.latency_p50, n=12) for one in ROWS]

    def folds(*accuracies):
        return [
            replace(row(f"{key}-folds", "other", accuracy, None, None, n=400), name=f"{key}, folds pooled")
            for key, accuracy in zip(("teacher-1", "student", "alone"), accuracies, strict=True)
        ]

    pooled = folds(0.9, 0.6, 0.8)
    found = verdict([*few, *pooled], chance=0.5)
    assert found.replies[-1].yes is False
    assert "60.0 % against 90.0 % of teacher-1, folds pooled" in found.replies[-1].words
    assert "alone, folds pooled has 80.0 % against 60.0 %" in found.advice
    guesses = folds(0.6, 0.6, 0.6)
    assert "cannot be told from" in verdict([*few, *guesses], chance=0.6).advice
    whole = [replace(row, chance=0.6) for row in guesses]  # of all images, whatever it is on the test split's few
    assert "commonest answer (60.0 %" in verdict([*few, *whole], chance=0.5).advice


def test_where_the_student_guesses_and_a_row_beside_it_is_good_that_is_shipped():
    guessing = [row(one.key, one.role, 0.33, one.bytes, one.latency_p50) if one.role in ("student", "int8") else one
                for one in ROWS]  # fmt: skip
    found = verdict(guessing, chance=0.33)
    assert found.ship is not None
    assert not found.advice.startswith("Ship nothing")
    assert verdict([one for one in guessing if one.role in ("student", "int8")], chance=0.33).ship is None


def test_a_network_without_teachers_that_guesses_is_told_too():
    alone = [row("student", "model", 0.951, 900_000, 1.0), row("int8", "int8", 0.951, 250_000, 1.0)]
    found = verdict(alone, TASK, chance=0.95)
    assert found.advice.startswith("Ship nothing yet: 95.1 % cannot be told from always giving the commonest answer")
    assert (found.ship, found.replies) == (None, ())
    assert verdict(alone, TASK, chance=0.5) is None


def test_the_file_that_was_kept_of_a_recommended_row_is_named():
    better = replace(row("alone", "baseline", 0.95, 1_900_000, 2.0), file="instead/device.zip")
    found = verdict([better if one is ALONE else one for one in ROWS])
    assert found.ship == "alone"
    assert found.advice.endswith(" Its file, from the run's folder: instead/device.zip.")


def test_a_teacher_that_does_not_export_is_no_file():
    live = replace(TEACHER, accuracy=0.99, interval=wilson_interval(990, 1000), note="in PyTorch: it does not export")
    found = verdict([live, *without(TEACHER, TEACHER_8)])
    assert found.advice.startswith("Ship the teacher-1 itself, in PyTorch (4 MB, 8 ms) if the device takes it")


def test_a_student_that_lost_much_when_it_was_made_smaller_gives_way_to_the_one_before():
    before = replace(row("before-1-int8", "other", 0.93, 900_000, 2.0), name="a-1, int8 file", file="../a-1/m.onnx")
    small = replace(INT8, accuracy=0.80, interval=wilson_interval(800, 1000))
    found = verdict([TEACHER, TEACHER_8, before, STUDENT, small])
    assert found.ship == "before-1-int8"
    assert found.advice == (
        "Ship a-1, int8 file (900 kB) if the device takes it: 93.0 % against 80.0 % once it was made smaller. "
        "Its file, from the run's folder: ../a-1/m.onnx."
    )
    assert verdict([TEACHER, TEACHER_8, before, STUDENT, INT8]).ship == "int8"


def test_a_teacher_that_the_student_alone_beats_is_nothing_to_ship():
    """A weak teacher of few parameters, whose labels held the student back."""
    weak = replace(TEACHER_8, accuracy=0.55, interval=wilson_interval(550, 1000), bytes=10_000, latency_p50=0.1)
    held = {"accuracy": 0.52, "interval": wilson_interval(520, 1000)}
    rows = [replace(weak, key="teacher-1", role="teacher"), weak, replace(STUDENT, **held), replace(INT8, **held)]
    assert verdict([*rows, ALONE]).ship == "alone"
    assert verdict(rows).ship == "teacher-1-int8"
