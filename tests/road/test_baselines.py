"""What stands beside a student: it is asked for early, and compared as it is meant to be used."""

from __future__ import annotations

import pytest
import timm
from safetensors.torch import save_file
from walk_fakes import SIDE, run_config

from pocketvit.errors import PocketError
from pocketvit.files import write_json
from pocketvit.models import hub
from pocketvit.road import baselines, begin
from pocketvit.settings import Distill


@pytest.fixture
def weights(tmp_path):
    """A folder as timm saves a model, of another input size than the student's."""
    model = timm.create_model("test_vit", num_classes=5, img_size=48)
    (tmp_path / "model").mkdir()
    save_file(model.state_dict(), tmp_path / "model/model.safetensors")
    about = {"input_size": [3, 48, 48], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    write_json(tmp_path / "model/config.json", {"architecture": "test_vit", "num_classes": 5, "pretrained_cfg": about,
                                                "model_args": {"img_size": 48}})  # fmt: skip
    return f"local-dir:{tmp_path / 'model'}"


def test_weights_that_cannot_be_had_are_told_before_anything_is_trained(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_answers", lambda: False)
    settings = Distill(str(photos), student="pocket_xs", against="mobilenetv3_large_150d", out=str(tmp_path / "runs"))
    with pytest.raises(PocketError, match=r"--against .*cannot be reached.*local-dir:FOLDER.*leave --against away"):
        begin.begin(settings)
    # What was found of the images may have been noted down, for the next start.
    assert {path.name for path in (tmp_path / "runs").glob("*")} <= {"shared"}


def test_a_local_folder_is_compared_at_its_own_resolution(road, photos, tmp_path, monkeypatch, weights):
    begin.check_network(weights, "--against")
    begin.check_against(weights)
    asked = {}
    monkeypatch.setattr(baselines, "train_network", lambda *_, **given: asked.update(given))
    baselines.train_against(road, run_config(), tmp_path / "against", weights)
    assert asked["input"] == (48, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert asked["model"].num_classes == 3
    assert road.view.view_size == SIDE < 48
