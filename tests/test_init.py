"""`import pocketvit` is quick and whole: every verb is there, none of them is loaded before it is used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import pocketvit
from pocketvit.settings import VERBS

HEAVY = ("torch", "timm", "onnx", "onnxruntime", "sklearn", "matplotlib", "numpy", "PIL")


def test_importing_pocketvit_loads_nothing_heavy():
    program = f"import sys, pocketvit, pocketvit.cli; print([name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_a_function_of_the_package(name):
    verb = getattr(pocketvit, name)
    assert inspect.isfunction(verb)
    assert verb.__name__ == name
    assert name in pocketvit.__all__


def test_all_that_is_exported_is_there():
    assert set(pocketvit.__all__) == {*VERBS, "PocketError", "Run"}
    for name in pocketvit.__all__:
        assert getattr(pocketvit, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="distil'"):
        pocketvit.distil  # noqa: B018
