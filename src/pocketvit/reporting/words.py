"""The sentences of a report: what was found, and what was not measured. Nothing here claims more than a row holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..files import human_bytes
from .results import Results, Row
from .text import figure_text, human_count, interval_text, milliseconds, percent
from .verdict import at_equal_precision

RESEARCH = (
    "For research use only: not a medical device. Nothing here was validated for diagnosis or treatment, and the "
    "figures hold for images like these alone."
)


@dataclass(frozen=True)
class Tile:
    """One large figure at the head of the page, with the line under it that keeps it honest."""

    label: str
    value: str
    detail: str


def headline(results: Results) -> str:
    """Return the result in one to three sentences, about the file that ships and never without its companions."""
    row = results.shipped or next((row for row in results.rows if row.measured), None)
    if row is None:
        return "Nothing was measured in this run."
    what = f"A {human_bytes(row.bytes)} file" if row.bytes else row.name[:1].upper() + row.name[1:]
    if row.map is not None:
        return _boxes_headline(results, row, what)
    if row.accuracy is None:
        reason = (
            "there were no test images" if row.n is None
            else "it was not measured" if row.n
            else "none of the test images has a label"
        )  # fmt: skip
        first = f"{what}; its accuracy is unknown, as {reason}"
        if row.agreement is not None:
            shown = results.task.counted("the images")
            first += f". It gives its teachers' answer on {percent(row.agreement)} of {shown}"
        return first + "."
    count = f"{row.n:,} " if row.n else ""
    first = f"{what} that is right on" if row.bytes else f"{what} is right on"
    first += f" {percent(row.accuracy, row.n)} of {results.task.counted(f'{count}{results.scored_on} images')}"
    if row.interval is not None:
        first += f" (95 % interval {interval_text(row)} %)"
    companions = []
    teachers = [teacher for teacher in results.teacher_rows if teacher.accuracy is not None]
    if teachers and row.role != "teacher":
        figures = " and ".join(percent(teacher.accuracy, teacher.n) for teacher in teachers)
        weight = sum(teacher.bytes or 0 for teacher in teachers)
        size = f", at {human_bytes(weight)}{' together' if len(teachers) > 1 else ''}," if weight else ""
        companions.append(f"{'its teacher is' if len(teachers) == 1 else f'its teachers{size} are'} right on {figures}")
        if len(teachers) == 1:
            companions[0] = f"its teacher{size} is right on {figures}"
    baseline = results.baseline
    if baseline is not None and results.student is not None and results.student.role == "student":
        companions.append(
            f"the same student without a teacher on {percent(baseline.accuracy, baseline.n)}"
            if baseline.measured and baseline.accuracy is not None
            else "the same student without a teacher was not run"
        )
    second = "; ".join(companions)
    return f"{first}." + (f" {second[:1].upper()}{second[1:]}." if second else "")


def _boxes_headline(results: Results, row: Row, what: str) -> str:
    """The same of boxes."""
    interval = f" (95 % interval {row.map_interval[0]:.3f} to {row.map_interval[1]:.3f})" if row.map_interval else ""
    first = f"{what} that finds" if row.bytes else f"{what} finds"
    first += f" boxes with a mAP of {figure_text(row.map, None)}{interval}, AP50 {figure_text(row.map_50, None)}, on "
    first += f"{row.n or 0:,} {results.scored_on} images"
    more = []
    teachers = [figure_text(teacher.map, None) for teacher in results.teacher_rows if teacher.map is not None]
    if teachers and row.role != "teacher":
        more.append(f"its teacher{'s have' if len(teachers) > 1 else ' has'} {' and '.join(teachers)}")
    baseline = results.baseline
    if baseline is not None and results.student is not None and results.student.role == "student":
        known = baseline.measured and baseline.map is not None
        figure = figure_text(baseline.map, None) if known else "was not run"
        more.append(f"the same student without a teacher {figure}")
    second = "; ".join(more)
    return f"{first}." + (f" {second[:1].upper()}{second[1:]}." if second else "")


def tiles(results: Results) -> list[Tile]:
    """Return the large figures for the file that ships: accuracy, size, latency, agreement; only what is known."""
    row = results.shipped
    if row is None:
        return []
    result = (
        []
        if row.map is not None
        else [
            Tile(
                "accuracy",
                "unknown" if row.accuracy is None else percent(row.accuracy, row.n),
                "no test images"
                if row.accuracy is None and row.n is None
                else "no labels of test images"
                if row.accuracy is None
                else f"{interval_text(row)} %, {row.n:,} images"
                if row.interval and row.n
                else "no interval was computed",
            )
        ]
    )
    if row.map is not None:
        spread = f"{row.map_interval[0]:.3f}–{row.map_interval[1]:.3f}" if row.map_interval else "no interval"
        result.append(Tile("mAP", f"{row.map:.3f}", f"{spread}, {row.n or 0:,} images"))
        result.append(Tile("AP50", figure_text(row.map_50, None), f"{row.boxes or 0:,} true boxes"))
    if row.auc is not None:
        low_high = f"{row.auc_interval[0]:.3f}–{row.auc_interval[1]:.3f}" if row.auc_interval else "no interval"
        result.append(Tile("AUC", f"{row.auc:.3f}", f"{low_high}; 0.5 is chance"))
    if row.bytes:
        result.append(Tile("file size", human_bytes(row.bytes), _size_detail(results, row)))
    if row.latency_p50 is not None:
        threads = results.machine.get("threads")
        where = f"median, {threads} thread{'' if threads == 1 else 's'} here" if threads else "median, on this machine"
        result.append(Tile("latency", f"{milliseconds(row.latency_p50)} ms", where))
    if row.agreement is not None:
        what = f"of the {results.task.unit}, as the teachers answer"
        result.append(Tile("agreement", percent(row.agreement, row.n), what))
    return result


def _size_detail(results: Results, row: Row) -> str:
    """Compare the student's size with that of its largest teacher, at one precision; else say its parameters."""
    student = results.student
    teacher = max(results.teacher_rows, key=lambda one: one.bytes or 0, default=None)
    if student is not None and teacher is not None:
        ours, theirs = at_equal_precision(results.rows, student, teacher, results.task)
        if ours.bytes and theirs.bytes and theirs.bytes > 1.05 * ours.bytes:
            times = theirs.bytes / ours.bytes
            whose = "its" if len(results.teacher_rows) == 1 else "the largest"
            precision = "in int8" if ours.role == "int8" else "in fp32"
            return f"{times:.{1 if times < 10 else 0}f}× smaller than {whose} teacher, both {precision}"
    return f"{human_count(row.parameters)} parameters" if row.parameters else row.name


def differences(results: Results) -> tuple[str, ...]:
    """Return the tested differences, or the sentence that says why none may be claimed."""
    if results.differences:
        return results.differences
    measured = [row for row in results.rows if row.measured and (row.accuracy is not None or row.map is not None)]
    if len(measured) < 2:
        return ()
    seeds = min(row.seeds for row in measured)
    trained = "one training" if seeds == 1 else f"{seeds} trainings"
    return (
        f"The rows were not tested against each other: each stands for {trained}, and a difference is "
        "claimed only when it is paired over at least 3 seeds.",
    )


def not_measured(results: Results, missing: tuple[str, ...] = ()) -> list[str]:
    """Return what a reader might take for measured and is not.

    Args:
        missing: further sentences, such as why there are no predictions.
    """
    sentences = [f"{_upper(row.name)}: not run." for row in results.rows if not row.measured]
    measured = [row for row in results.rows if row.measured]
    row = results.shipped
    distilled = results.student is not None and results.student.role == "student"
    if distilled and not any(other.role == "against" for other in results.rows):
        sentences.append("What one would ship otherwise (a small pretrained network such as MobileNetV3): not run.")
    unknown = [row.name for row in measured if row.accuracy is None and row.map is None]
    if unknown:
        sentences.append(f"Accuracy is unknown for: {', '.join(unknown)}.")
    small = min((row.n for row in measured if row.n), default=None)
    if small is not None and small < 500:
        pooled = any(row.key.endswith("-folds") for row in measured)
        pools = distilled and results.task.pools and not pooled
        more = ", and pooled folds would use every image" if pools else ""
        sentences.append(f"The figures rest on {small} images; fewer than 500 leave wide intervals{more}.")
    if results.scored_on != "test":
        sentences.append(
            f"There is no test split: the figures were counted on the {results.scored_on} split, which may also have "
            "chosen the checkpoint."
        )
    if results.task.screens(results.classes) and row is not None and row.n and row.sensitivity is None:
        sentences.append(
            "Sensitivity and specificity: an operating point is chosen on labelled validation images, and there are "
            "none beside the scored ones."
        )
    uncalibrated = [row.name for row in measured if row.ece is not None and not row.calibrated]
    if uncalibrated:
        sentences.append(
            f"Calibration with a fitted temperature, for: {', '.join(uncalibrated)}. Their ECE is that of raw outputs."
        )
    if any(row.latency_p50 is not None for row in measured):
        sentences.append(
            "Latency on your device: the figures are of the machine named under the table. "
            "Copy device.zip there and run: python bench.py"
        )
    else:
        sentences.append("Latency: not measured.")
    if row is not None and row.memory_mb is None:
        sentences.append("Peak memory of the file that ships: not measured.")
    return [*sentences, *missing]


def disagreement_summary(n: int, count: int, student_right: int, teachers_right: int, neither: int) -> str:
    """Return who was right where student and teachers differ, as a sentence."""
    if count == 0:
        return f"Student and teachers give the same answer on all {n:,} images."
    return (
        f"They differ on {count:,} of {n:,} images: there the student is right on {student_right:,}, "
        f"the teachers on {teachers_right:,}, neither on {neither:,}."
    )


def moment(text: str) -> str:
    """Return an ISO time as people write it, ``21 November 2026, 10:04 UTC``; other text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = f" {when.tzname()}" if when.tzinfo else ""
    return f"{when.day} {when:%B %Y, %H:%M}{zone}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
