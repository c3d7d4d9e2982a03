"""The report is one file that needs no network, runs no script, hides pixels on request and survives missing parts."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from pocketvit.errors import PocketError
from pocketvit.reporting.page import _overlay, write_report

EVIL = (
    "<script>alert(1)</script>",
    "$x_{$",
    "--><b>",
    '"q" onload="x',
    "日本語",
    "a|b\nc",
    "&amp;",
    "{{7*7}}",
    "8",
    "\x1b",
)


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def page(finished) -> str:
    return write_report(finished).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, make_run) -> str:
    folder = make_run(tmp_path_factory.mktemp("hostile") / "<img src=x>", classes=EVIL)
    value = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    value.update(title=EVIL[0], command=EVIL[0] + EVIL[3], notes=list(EVIL), differences=[EVIL[0]], created=EVIL[0])
    value["rows"][0].update(name=EVIL[0] + EVIL[2] + EVIL[3], note=EVIL[0])
    value["machine"][EVIL[0]] = EVIL[0]
    (folder / "results.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "config.yaml").write_text(EVIL[0])
    return write_report(folder).read_text(encoding="utf-8")


def test_everything_is_inside_the_file(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "video", "audio", "base", "form"} & set(parsed.tags)
    assert parsed.tags.count("img") >= 24
    assert all(uri.startswith("data:image/") for uri in parsed.values("src"))
    assert all(reference.startswith("#") for reference in parsed.values("href"))
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_section_is_there(page):
    text = Page(page).text
    for words in (
        "A 540 kB file that is right on 94.4 % of 360 test images", "The honest table", "What accuracy costs",
        "Learning curves", "What is taken for what", "As the student sees them", "Where student and teachers disagree",
        "They differ on", "The images", "20 % were held out", "What was not measured", "MobileNetV3-Small: not run",
        "on your device", "Where this comes from", "pocketvit demo", "Intel Xeon 2.6 GHz, 2 cores", "95.3–98.7",
        "claimed only when it is paired over at least 3 seeds", "21 November 2026, 10:04 UTC", "view_size: 16",
    ):  # fmt: skip
        assert words in text, words


def test_a_number_and_its_unit_stay_on_one_line(page):
    assert "94.4\N{NO-BREAK SPACE}% of 360 test images" in page


def test_training_images_of_every_class_are_shown(tmp_path, make_run):
    """They are stored class by class, as folders are read: with the last ones cut off, a class is."""
    folder = make_run(tmp_path / "run")
    with np.load(folder / "samples.npz") as file:
        arrays = dict(file)
    arrays |= {"views": np.zeros((32, 4, 4, 3), np.uint8), "labels": np.repeat(["cat", "heron"], (26, 6))}
    np.savez(folder / "samples.npz", **arrays)
    assert Page(write_report(folder).read_text(encoding="utf-8")).text.count("heron") >= 6


def test_a_student_without_a_teacher_is_not_said_to_stand_beside_one(tmp_path, make_run):
    folder = make_run(tmp_path / "run")
    value = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    value["rows"] = [row for row in value["rows"] if row["key"] in ("student", "int8")]
    value["teachers"], value["curves"] = [], {"student": value["curves"]["student"]}
    (folder / "results.json").write_text(json.dumps(value), encoding="utf-8")
    text = write_report(folder).read_text(encoding="utf-8")
    assert "Learning curves" in text
    assert "beside its teachers" not in text
    assert "different arms" not in text


def test_the_end_of_smaller_pictures_is_told_beside_the_curves(page, tmp_path, make_run):
    folder = make_run(tmp_path / "run")
    for file in folder.glob("*/metrics.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line | {"smaller": line["epoch"] <= 18}) + "\n" for line in lines))
    words = "Until epoch 18 pictures of three quarters of the side were learned (progressive resizing)"
    assert words in Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "progressive resizing" not in Page(page).text


def test_each_figure_is_well_formed_and_follows_the_theme(page):
    figures = re.findall(r'<svg viewBox="[^"]+" role="img".*?</svg>', page, flags=re.DOTALL)
    assert len(figures) == 5
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "var(--" in figure
        assert "#fe01" not in figure
    ids = Page(page).values("id")
    assert len(ids) == len(set(ids))
    assert "prefers-color-scheme: dark" in page


def test_the_same_run_gives_the_same_page(finished, page):
    assert write_report(finished).read_text(encoding="utf-8") == page


def test_no_images_leaves_out_every_pixel_and_file_name(finished, tmp_path):
    text = write_report(finished, tmp_path / "shared.html", images=False).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "data:image" not in text
    assert "base64" not in text
    assert not re.search(r"digit-\d{4}", text)
    assert "Where student and teachers disagree" in text
    assert "holds no picture" in text


def test_hostile_names_are_harmless(hostile):
    parsed = Page(hostile)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "--><b>" not in hostile
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert len(parsed.values("src")) >= 24
    assert all(uri.startswith("data:image/") for uri in parsed.values("src"))
    assert "&lt;script&gt;" in hostile
    assert "{{7*7}}" in parsed.text
    for figure in re.findall(r'<svg viewBox="[^"]+" role="img".*?</svg>', hostile, flags=re.DOTALL):
        ElementTree.fromstring(figure)


@pytest.mark.parametrize("part", ["predictions.npz", "samples.npz", "student-training", "config.yaml", "everything"])
def test_a_missing_part_leaves_the_rest(run_folder, part):
    for path in list(run_folder.iterdir()):
        if path.name == part or (part == "everything" and path.name != "results.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(write_report(run_folder).read_text(encoding="utf-8")).text
    assert "The honest table" in text
    assert ("No predictions of single images" in text) == (part in ("predictions.npz", "everything"))
    assert ("None were stored with the run" in text or "none were stored" in text) == (
        part in ("samples.npz", "everything")
    )


TOKENS = {
    "n": 360,
    "teachers": ["conv", EVIL[0]],
    "heads": ["class head", "token 1", "token 2"],
    "agreement": [[0.91, 0.92], [0.933, 0.94], [0.95, 0.966]],
    "kl": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]],
    "words": "no difference seen: the sentence",
}


def with_tokens(folder, tokens):
    value = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(value | {"tokens": tokens}))
    return write_report(folder).read_text(encoding="utf-8")


def test_tokens_stand_beside_every_teacher_and_their_own_is_bold(run_folder):
    text = with_tokens(run_folder, TOKENS)
    section = text[text.index("Whom each token follows") : text.index("What is taken for what")]
    assert re.findall(r"<b>(.*?)</b>", section) == ["93.3 %", "96.6 %"]
    assert re.findall(r"KL (\d\.\d{3})", section) == ["0.100", "0.200", "0.300", "0.400", "0.500", "0.600"]
    assert "360 test images" in section
    assert "No difference seen: the sentence." in section
    assert "<script>" not in section


@pytest.mark.parametrize(
    "spoiled",
    [None, 3, {**TOKENS, "n": 0}, {**TOKENS, "kl": [[0.1, 0.2]]}, {**TOKENS, "agreement": [[None, "x"]] * 3}],
)
def test_without_whole_figures_of_tokens_the_section_is_left_out(run_folder, spoiled):
    text = with_tokens(run_folder, spoiled)
    assert "Whom each token follows" not in text
    assert "The honest table" in text


@pytest.mark.parametrize(
    ("n", "why"), [(None, "there were no test images"), (0, "none of the test images has a label")]
)
def test_without_test_images_the_accuracy_is_unknown(run_folder, n, why):
    value = json.loads((run_folder / "results.json").read_text())
    for row in value["rows"]:
        row.update(accuracy=None, interval=None, n=n, min_class=None, ece=None)
    (run_folder / "results.json").write_text(json.dumps(value))
    (run_folder / "predictions.npz").unlink()
    text = Page(write_report(run_folder).read_text(encoding="utf-8")).text
    assert f"its accuracy is unknown, as {why}" in text
    assert "Accuracy is unknown for:" in text


def test_nothing_but_rows_that_were_not_run(tmp_path):
    (tmp_path / "results.json").write_text('{"rows": [{"key": "a", "name": "A", "status": "not run"}]}')
    assert "Nothing was measured in this run." in write_report(tmp_path).read_text()


def test_many_classes_are_listed_instead_of_drawn(run_folder):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 100, 500)
    probabilities = generator.dirichlet(np.ones(100), 500)
    np.savez(run_folder / "predictions.npz", targets=targets, student=probabilities, int8=probabilities)
    text = write_report(run_folder).read_text(encoding="utf-8")
    assert "Most frequent confusions" in text
    assert "-confusion-" not in text


def test_several_runs_stand_on_one_page(finished, run_folder, tmp_path):
    out = write_report([finished, run_folder], tmp_path / "both.html")
    page = Page(out.read_text(encoding="utf-8"))
    assert "2 runs side by side" in page.text
    assert page.tags.count("article") == 2
    ids = page.values("id")
    assert len(ids) == len(set(ids))


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(PocketError, match="not a finished run"):
        write_report(tmp_path)
    with pytest.raises(PocketError, match="at least one"):
        write_report([])


@pytest.fixture
def screening(run_folder):
    """A run on two classes, one with a hostile name, with everything that a screening's report shows."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, 200)
    score = np.clip(0.3 * targets + 0.7 * generator.random(200), 0, 1)
    p = np.stack([1 - score, score], 1)
    np.savez(
        run_folder / "predictions.npz", targets=targets, int8=p, student=p, names=[f"scan-{i}" for i in range(200)]
    )
    samples = dict(np.load(run_folder / "samples.npz"))
    heat = {
        "heat_images": samples["test_images"][:3], "heat_names": ["scan-7", "scan-8", "scan-9"],
        "heat_targets": targets[:3],
        "heat_answers": 1 - targets[:3], "heat_gradient": generator.random((3, 16, 16)).astype(np.float16),
        "heat_rollout": generator.random((3, 4, 4)).astype(np.float16),
    }  # fmt: skip
    np.savez(run_folder / "samples.npz", **samples, **heat)
    curve = {"confidence": [0.6, 0.9], "accuracy": [0.55, 0.95], "counts": [100, 101]}
    value = json.loads((run_folder / "results.json").read_text())
    value["dataset"] |= {"classes": ["normal", EVIL[0]], "research": True}
    value["reliability"] = {"before": curve, "after": curve}
    for row in value["rows"]:
        if row["key"] in ("student", "int8"):
            row |= {"auc": 0.83, "auc_interval": [0.78, 0.88], "sensitivity": 0.7, "sensitivity_interval": [0.6, 0.8]}
            row |= {"specificity": 0.75, "specificity_interval": [0.65, 0.85], "threshold": 0.4, "positive": EVIL[0]}
            row |= {"chosen": "Youden's J on 78 validation images"}
    (run_folder / "results.json").write_text(json.dumps(value))
    return run_folder


def test_a_screening_shows_its_errors_its_confidence_and_where_it_looks(screening):
    text = write_report(screening).read_text(encoding="utf-8")
    parsed = Page(text)
    for words in (
        "For research use only: not a medical device", "Both kinds of error", "Youden's J on 78 validation images",
        "60–80", "Confidence against truth", "101", "Where the student looks", "not why it is right", "scan-9",
        "0.5 is chance",
    ):  # fmt: skip
        assert words in parsed.text, words
    assert "<script" not in text
    assert parsed.values("alt").count("attention rollout") == 3
    for name in ("roc", "reliability"):
        assert f'id="run-1-{name}-' in text
    shared = write_report(screening, images=False).read_text(encoding="utf-8")
    assert "<img" not in shared
    assert "Where the student looks" not in shared
    assert "scan-" not in shared
    assert "Both kinds of error" in shared


def test_parts_of_a_screening_that_are_missing_leave_the_rest(screening):
    value = json.loads((screening / "results.json").read_text())
    value["reliability"] = {"before": {"confidence": [0.5]}}
    for row in value["rows"]:
        row["positive"] = "no such class"
    (screening / "results.json").write_text(json.dumps(value))
    samples = dict(np.load(screening / "samples.npz"))
    del samples["heat_rollout"]
    np.savez(screening / "samples.npz", **samples)
    parsed = Page(write_report(screening).read_text(encoding="utf-8"))
    assert "Both kinds of error" not in parsed.text
    assert "Confidence against truth" not in parsed.text
    assert "Where the student looks" in parsed.text
    assert "attention rollout" not in parsed.text + str(parsed.values("alt"))


def test_without_a_validation_split_no_operating_point_is_invented(screening):
    value = json.loads((screening / "results.json").read_text())
    for row in value["rows"]:
        row["sensitivity"] = None
    (screening / "results.json").write_text(json.dumps(value))
    assert "an operating point is chosen on labelled validation images" in write_report(screening).read_text()


def test_photographs_are_not_for_research_use_alone(page):
    assert "research use" not in page


def test_a_heat_map_is_bright_where_it_is_hot_and_keeps_the_image_beside_it():
    image = np.full((28, 28, 3), 100, np.uint8)
    heat = np.zeros((4, 4), np.float16)
    heat[0, 0] = 1
    assert _overlay(image, None).shape == (112, 112, 3)
    laid = _overlay(image, heat).astype(int).sum(2)
    assert laid[5, 5] > laid[60, 60]
    assert laid[60, 60] == laid[90, 90] < 300
    assert _overlay(np.zeros((224, 224, 3), np.uint8), heat).shape == (224, 224, 3)


def test_the_colours_of_boxes_are_told(run_folder):
    samples = dict(np.load(run_folder / "samples.npz"))
    boxes = {
        "seen_pictures": np.zeros((1, 2, 8, 8, 3), np.uint8),
        "seen_titles": np.array(["truth", "student"]),
        "seen_words": np.array([["1 boxes", "1 of 1 found, 0 others"]]),
        "seen_names": np.array(["a.png"]),
    }
    np.savez(run_folder / "samples.npz", **samples, **boxes)
    text = write_report(run_folder).read_text(encoding="utf-8")
    assert re.search(r"border: 2px solid #e69f00\"></span> 0</li>", text)
    assert re.search(r"border: 2px solid #56b4e9\"></span> 1</li>", text)
