"""The model card loads as the hub reads it, names licences, and quotes the student beside its companions."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pocketvit.deployment import predict_images
from pocketvit.models import create_model, save_model
from pocketvit.reporting.card import write_card
from pocketvit.road.report import source_of
from pocketvit.views.preprocessing import Preprocessing


def _edit(folder, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _front(text: str) -> dict:
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def student(folder, about):
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=10)
    with torch.no_grad():
        model.fc.weight.mul_(20)
    save_model(model.eval(), folder / "student", classes=tuple("0123456789"), preprocessing=about)


def test_the_code_on_the_card_answers_as_predict_does_without_pocketvit(run_folder):
    """It is run as it stands, beside the folder, where importing pocketvit fails."""
    about = Preprocessing(16, 24, (0.5,) * 3, (0.25,) * 3, "bicubic", aspect="pad", tile=20)
    student(run_folder, about)
    text = write_card(run_folder).read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    pixels = np.random.default_rng(0).integers(0, 256, (23, 41, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(run_folder / "image.png")
    script = f"import sys; sys.modules['pocketvit'] = None\n{code}\nprint(probabilities.tolist())"
    done = subprocess.run([sys.executable, "-c", script], cwd=run_folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (expected,) = predict_images(run_folder / "student", run_folder / "image.png", top=10)
    found = {str(i): p for i, p in enumerate(json.loads(done.stdout))}
    assert found == pytest.approx(dict(expected.data["topk"]), abs=1e-5)
    assert max(found.values()) > 0.2


def test_the_card_of_an_older_student_still_loads_it(run_folder):
    student(run_folder, Preprocessing.plain((24, (0.5,) * 3, (0.5,) * 3)))
    config = json.loads((run_folder / "student" / "config.json").read_text())
    del config["pocketvit"]["preprocessing"]
    (run_folder / "student" / "config.json").write_text(json.dumps(config))
    text = write_card(run_folder).read_text()
    assert "timm.data.create_transform" in text
    assert not (run_folder / "student" / "preprocessing.py").exists()


def test_the_card_holds_table_loading_and_front_matter(run_folder):
    student(run_folder, Preprocessing.plain((16, (0.5,) * 3, (0.25,) * 3)))
    path = write_card(run_folder)
    assert path == run_folder / "student" / "README.md"
    text = path.read_text()
    for words in (
        'timm.create_model(f"local-dir:', "pocketvit is not needed", "| student, distilled |", "sees 16 pixels",
        "mean 0.5, 0.5, 0.5", "Smaller? ",
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
    assert "<script" not in text
    assert _front(text)["license"] == "other"
    assert body.count("```") == 4


def test_medical_images_are_for_research_use(run_folder, tmp_path):
    assert "research use" not in write_card(run_folder, tmp_path / "plain.md").read_text()
    _edit(run_folder, dataset={"name": "scans", "research": True})
    assert "**For research use only: not a medical device." in write_card(run_folder, tmp_path / "card.md").read_text()


def test_teachers_of_the_hub_are_base_models():
    assert source_of("hf-hub:someone/net") == {"source": "hf-hub:someone/net"}
    assert source_of("resnet50.a1_in1k") == {"source": "hf-hub:timm/resnet50.a1_in1k"}
    for other in ("resnet50", "runs/x/student", "weights.pth", None, object()):
        assert source_of(other) == {}
