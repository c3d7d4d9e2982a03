"""A verb in Python: every setting a keyword with its default, seen by editors and `help`, checked before the call."""

from __future__ import annotations

import inspect
import logging

import pytest

from pocketvit.errors import PocketError
from pocketvit.settings import VERBS, Distill, Predict, settings_of, verb


@verb(Distill)
def distill(settings: Distill) -> Distill:
    """Return what was said."""
    return settings


@verb(Predict)
def predict(settings: Predict) -> Predict:
    return settings


@pytest.mark.parametrize("kind", VERBS.values(), ids=VERBS)
def test_the_signature_has_every_setting_with_its_default(kind):
    @verb(kind)
    def function(settings):
        """Do it."""

    parameters = inspect.signature(function).parameters
    assert set(parameters) == {one.name for one in settings_of(kind)}
    for one in settings_of(kind):
        found = parameters[one.name]
        assert found.kind is (found.POSITIONAL_OR_KEYWORD if one.positional else found.KEYWORD_ONLY)
        assert found.default == (
            found.empty if one.default is not None and repr(one.default)[0] == "<" else one.default
        )
        assert f"\n    {one.name}: " in function.__doc__
    assert inspect.isfunction(function)


def test_the_docstring_is_the_function_s_or_that_of_the_settings():
    assert distill.__doc__.startswith("Return what was said.\n\nArgs:\n    images: ")
    assert predict.__doc__.startswith("Label images with a run")
    assert distill.__name__ == "distill"
    assert str(inspect.signature(predict)).startswith(
        "(model: 'Model', images: 'Picture | Sequence[Picture]', *, save:"
    )


def test_a_call_builds_and_checks_settings():
    assert distill("digits", epochs="3") == Distill("digits", epochs=3)
    assert predict(model=__file__, images="a.jpg").images == ("a.jpg",)
    with pytest.raises(PocketError, match=r"no setting 'epoch'.*epochs"):
        distill("digits", epoch=3)
    with pytest.raises(PocketError, match=r"no setting 'labels'.*table"):
        distill("digits", labels="a.csv")
    with pytest.raises(PocketError, match="--epochs 0: give"):
        distill("digits", epochs=0)
    with pytest.raises(PocketError, match="IMAGES is missing: `pocketvit predict MODEL IMAGES`"):
        predict("a")
    with pytest.raises(TypeError, match="too many positional"):
        distill("digits", "more")
    with pytest.raises(PocketError, match="there is no nowhere"):
        distill("nowhere")


def test_a_call_may_start_from_a_file(tmp_path):
    (tmp_path / "run.yaml").write_text("images: digits\nepochs: 7\nseed: 1\n")
    assert distill(config=tmp_path / "run.yaml", epochs=3) == Distill("digits", epochs=3, seed=1)


def test_a_settings_object_is_taken_by_the_function_underneath():
    assert distill.__wrapped__(Distill("photos")).images == "photos"


def test_a_caller_in_python_sees_the_log(capsys, monkeypatch):
    log = logging.getLogger("pocketvit")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)

    @verb(Predict)
    def loud(settings: Predict) -> None:
        log.info("three of four")

    loud(__file__, "a.jpg")
    assert capsys.readouterr().err == "three of four\n"


def test_images_by_split_are_taken_and_other_dictionaries_are_not():
    given = {"train": [("picture", 0)], "test": [("picture", 1)]}
    assert Distill(images=given).images is given
    with pytest.raises(PocketError, match="give a name or a path"):
        Distill(images={"folder": "photos"})
