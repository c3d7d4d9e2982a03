"""The model card loads as the hub reads it, names licences, and quotes the student beside its companions."""

from __future__ import annotations

import json

import pytest
import yaml

from pocketvit.reporting.card import write_card


def _edit(folder, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _front(text: str) -> dict:
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def test_the_card_holds_table_loading_and_front_matter(run_folder):
    (run_folder / "student").mkdir()
    config = {"architecture": "vit_tiny", "pretrained_cfg": {"input_size": [3, 16, 16], "mean": [0.5], "std": [0.25]}}
    (run_folder / "student" / "config.json").write_text(json.dumps(config))
    path = write_card(run_folder)
    assert path == run_folder / "student" / "README.md"
    text = path.read_text()
    for words in (
        'timm.create_model("local-dir:', "pocketvit is not needed", "| **student, distilled** |", "3 × 16 × 16",
        "student, few labels", "What was not measured", "unknown: check it before you publish",
    ):  # fmt: skip
        assert words in text, words
    front = _front(text)
    assert front["library_name"] == "timm"
    assert front["license"] == "other"
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(0.94722)


def test_a_student_with_more_heads_says_that_it_needs_pocketvit(run_folder):
    (run_folder / "student").mkdir()
    (run_folder / "student" / "config.json").write_text('{"pocketvit": {"needs_pocketvit": true}}')
    text = write_card(run_folder).read_text()
    assert "import pocketvit.models" in text
    assert "is not needed" not in text


@pytest.mark.parametrize(
    ("licences", "expected"), [(["MIT", "mit"], "mit"), (["mit", "apache-2.0"], "other"), (["cc-by-nc-4.0"], "other")]
)
def test_the_licence_is_named_only_where_all_teachers_share_a_permissive_one(run_folder, licences, expected):
    teachers = [{"name": f"t{i}", "source": f"hf-hub:a/t{i}", "licence": name} for i, name in enumerate(licences)]
    _edit(run_folder, teachers=teachers)
    text = write_card(run_folder).read_text()
    front = _front(text)
    assert front["license"] == expected
    assert front["base_model"][0] == "a/t0"
    assert licences[0] in text


def test_hostile_names_stay_text(run_folder, tmp_path):
    evil = "<script>alert(1)</script>\n---\nlicense: mit\n```"
    _edit(run_folder, title=evil, command=evil, notes=[evil])
    text = write_card(run_folder, tmp_path / "card.md").read_text()
    body = text.split("---\n", 2)[2]
    assert "<script" not in body.split("```\n")[0]
    assert _front(text)["license"] == "other"
    assert body.count("```") == 4


def test_medical_images_are_for_research_use(run_folder, tmp_path):
    assert "research use" not in write_card(run_folder, tmp_path / "plain.md").read_text()
    _edit(run_folder, dataset={"name": "scans", "research": True})
    assert "**For research use only: not a medical device." in write_card(run_folder, tmp_path / "card.md").read_text()
