"""The README's chart follows light and dark, loads nothing, and is a real PNG beside."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from pocketvit.errors import PocketError
from pocketvit.reporting.chart import write_chart


def test_both_files_are_written(finished, tmp_path):
    svg, png = write_chart(finished, tmp_path / "demo.svg")
    text = svg.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text
    assert "94.4 %" in text
    assert "Counted on 360 test images of digits" in text
    assert text.count("http") == 1  # the name space
    assert Image.open(io.BytesIO(png.read_bytes())).size[0] == 1440


def test_rows_alone_are_enough_and_a_lone_student_is_not_quoted(tmp_path):
    svg, _ = write_chart(
        [{"key": "s", "name": "S", "role": "student", "accuracy": 0.9}], tmp_path / "c.png", caption="mine"
    )
    text = svg.read_text()
    assert text.count("not run") == 2
    assert "mine" in text


def test_no_accuracy_no_chart(tmp_path):
    with pytest.raises(PocketError, match="no row has an accuracy"):
        write_chart([{"key": "s", "name": "S"}], tmp_path / "c")
