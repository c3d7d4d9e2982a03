"""The shell, Python and YAML have the same names, and give equal settings, or refuse the same."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvit import cli
from pocketvit.errors import PocketError
from pocketvit.settings import VERBS, Compress, Distill, Synthesize, differences, dump, load, settings_of
from pocketvit.settings.base import Setting
from pocketvit.settings.configfile import read_values

KINDS = [*VERBS.values(), Synthesize, Compress]
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and not text.startswith(("-", "(", "~"))
)
WRITTEN = {  # of settings with a form of their own
    "window": st.sampled_from(["0,4095", "-1000,400.5"]),
    "hours": st.sampled_from([0.5, 2, "30min", "+1"]),
    "fit": st.sampled_from(["3MB", "20ms", "500 kB,0.5s"]),
    "store_features": st.sampled_from(["2GB", "1 MiB"]),
    "picture": st.sampled_from(["640x480", "1x1"]),
    "name": st.sampled_from(["cells", "two-words", "ü"]),
    "device": st.sampled_from(["cpu", "cuda:1"]),
    "on": st.sampled_from(["pi@raspberrypi", "ssh://pi@10.0.0.2:2222"]),
    "match": st.lists(st.sampled_from(["fitnets", "rkd:0.5", "locality:1@blocks.3>layer3"]), min_size=1, max_size=3),
    "controls": st.lists(st.sampled_from(["noise", "drawn", "inverted", "generated"]), min_size=1, max_size=3),
    "methods": st.lists(st.sampled_from(["alone", "kl,zscore", "kl+rkd"]), min_size=1, max_size=3),
    "classes": st.lists(st.sampled_from(["cat", "dog, bird"]), min_size=1, max_size=3),
}  # fmt: skip


NUMBERS = st.integers(-2, 2**64) | st.floats()


def valid(one: Setting) -> st.SearchStrategy[Any]:
    """Values of a setting that Python and YAML can hold and the shell can say."""
    if one.choices:
        return st.sampled_from(one.choices)
    if one.name in WRITTEN:
        return WRITTEN[one.name]
    if int in one.kinds:
        assert one.low is not None
        assert one.high is not None
        return st.integers(int(one.low), int(one.high))
    if float in one.kinds:
        low, high = one.low if one.above is None else one.above, one.high if one.below is None else one.below
        ends = {"exclude_min": one.above is not None, "exclude_max": one.below is not None}
        return st.floats(low, high, allow_infinity=False, allow_nan=False, **ends)
    if one.kinds == {bool}:
        return st.just(True) if one.name.startswith("no_") else st.booleans()
    if bool in one.kinds:
        return st.just(True) | TEXT
    return st.lists(TEXT, min_size=1, max_size=3) if one.many else TEXT


def possible(values):
    """The values without combinations that exclude each other."""
    changed = dict(values)
    if "tokens" in values:
        changed["tokens"] = 2
    if "tokens" in values and "teacher" in values:
        changed["teacher"] = ["a", "b"]
    if "teacher" in values:
        changed.pop("teacher_labels", None)
    if "assistant" in values:  # a student's only teacher, and none of one without images
        if values["stem"] == "coadvise" or values.get("data_free"):
            changed.pop("assistant")
        else:
            changed["tokens"] = 1
    if "fine_tune" in values:
        changed["freeze"] = values["freeze"] and not values["fine_tune"]
    if values.get("folds") == 1:
        changed["folds"] = 2
    if "bits" in values:
        changed |= {"bits": 4, "quantize": "qat", "recover": True}
        changed.pop("fit" if values.get("prune") else "prune", None)
    if "picture" in values:
        changed["target"] = "cpu"
        changed.pop("images", None)  # of --target phone
    if "target" in values and "max_drop" in values:  # of `export`
        if changed["target"] in ("cpu", "web"):
            changed.pop("max_drop")
        if changed["target"] != "web":
            changed.pop("runtime", None)
    if values.get("init") is not None:  # weights have their shape
        for name in ("patch", "tokens", "stem", "attention", "detector", "init_from"):
            changed.pop(name, None)
    if "plan" in values and "verify" in values:
        changed["verify"] = not values["plan"]
    if values.get("generator") == "transformer":
        changed["method"] = "generated"
        changed.pop("prune_ratio", None)
        changed.pop("rival", None)
    elif values.get("prune_ratio") or values.get("statistics") or values.get("rival"):
        changed["method"] = "inverted"
    if values.get("match") or values.get("hours"):
        changed.pop("hard_share", None)
    if "data_free" in values:
        divided = ("images", "val", "table", "group", "tile", "unlabelled", "few_labels", "folds", "hard_share")
        for name in divided if values["data_free"] else (
            "data", "method", "generator", "prune_ratio", "statistics", "count",
        ):  # fmt: skip
            changed.pop(name, None)
    return changed


def words_of(kind, values):
    """The same as typed in a shell."""
    words, places = [], []
    for one in settings_of(kind):
        if one.name in values:
            value = values[one.name]
            if one.positional:
                places += value if isinstance(value, list) else [value]
            elif isinstance(value, bool):
                words.append(one.flag if value else f"--no-{one.flag[2:]}")
            else:
                words += [f"{one.flag}={each}" for each in (value if isinstance(value, list) else [value])]
    return [*words, *places]


def from_shell(kind, words):
    values = cli.said(kind, words)
    values.pop("json")
    return kind(**values)


def required(kind):
    return {one.name: ["a", "b"] if one.many else "a" for one in settings_of(kind) if one.positional}


def every(kind):
    return st.fixed_dictionaries({one.name: valid(one) for one in settings_of(kind) if one.name != "config"})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
@settings(max_examples=8)
@given(data=st.data())
def test_every_setting_of_every_verb_said_in_the_shell_in_python_and_in_a_file_is_equal(kind, data, tmp_path_factory):
    values = possible(data.draw(every(kind)))
    python = kind(**values)
    assert from_shell(kind, words_of(kind, values)) == python
    file = tmp_path_factory.getbasetemp() / "own.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert kind(**read_values(file, kind)) == python


@pytest.mark.parametrize("kind", VERBS.values(), ids=VERBS)
@settings(max_examples=8)
@given(data=st.data())
def test_loading_what_was_dumped_gives_the_settings_to_the_value(kind, data, tmp_path_factory):
    values = possible(data.draw(every(kind)))
    saved = {one.name for one in settings_of(kind) if one.saved}
    made = kind(**{name: value for name, value in values.items() if name in saved})
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(dump(made), encoding="utf-8")
    assert load(file) == made
    assert type(load(file)) is kind
    assert differences(load(file), made) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
@settings(max_examples=25)
@given(data=st.data())
def test_a_number_is_taken_or_refused_alike_in_the_shell_and_in_python(kind, data):
    numeric = [one for one in settings_of(kind) if one.kinds & {int, float} and one.read is None and not one.choices]
    if not numeric:
        return
    one, value = data.draw(st.sampled_from(numeric)), data.draw(NUMBERS)

    def taken(value):
        try:
            return one.take(value)
        except PocketError as error:
            return str(error).partition(": ")[2]

    assert taken(value) == taken(repr(value)) or (isinstance(value, float) and int in one.kinds)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_the_defaults_are_the_same_everywhere(kind):
    assert from_shell(kind, words_of(kind, required(kind))) == kind(**required(kind))


def test_names_of_any_characters_survive_the_file(tmp_path):
    odd = [
        "a: b",
        "~",
        "#1",
        "null",
        "1e5",
        "yes",
        "ü\u2028\x85é",
        "\udcff.png",
        "😀",
        "'\"",
        "- x",
        "\t",
        "a\nb",
        "%",
        "{}",
    ]
    for name in odd:
        made = Distill(teacher=["x" + name, name.strip() or "t"], group="x" + name)
        (tmp_path / "config.yaml").write_text(dump(made), encoding="utf-8")
        assert load(tmp_path / "config.yaml") == made
