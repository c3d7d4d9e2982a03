"""Help: a dozen common settings first, all by group on request, within the width of a terminal."""

from __future__ import annotations

import pytest

from pocketvit.errors import PocketError
from pocketvit.settings import VERBS, Compare, Compress, Distill, Synthesize, settings_of
from pocketvit.settings.pages import groups_of, page, summary

KINDS = [*VERBS.values(), Synthesize, Compress]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_pages_fit(kind):
    assert len(summary(kind)) < 120
    assert summary(kind).endswith(".")
    for topic in ("", "all", *groups_of(kind)):
        text = page(kind, topic)
        assert max(map(len, text.splitlines())) < 120
        assert "--json" in text
    assert len(page(kind).splitlines()) <= 60
    assert sum(line.startswith("  --") for line in page(kind).splitlines()) <= 17


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_every_setting_stands_on_the_page_of_all_once_and_on_that_of_its_group(kind):
    def named(text):
        return [
            line.split()[0].replace("[no-]", "")
            for line in text.splitlines()
            if line.startswith(("  --", "  [", "  IM"))
        ]

    for one in settings_of(kind):
        if not one.positional:
            assert named(page(kind, "all")).count(one.flag) == 1
            assert one.flag in named(page(kind, one.group))


def test_the_first_page_names_the_groups_and_the_defaults():
    text = page(Distill)
    assert "--help all" in text
    assert "images | views | teachers" in text
    assert "(default auto)" in text
    assert "--stem" not in text
    assert "--[no-]flip" in page(Distill, "views")
    assert "  --baseline" not in page(Distill, "evidence")


def test_only_verbs_that_train_teachers_say_that_they_do():
    """`label` and `synthesize` refuse to start without one."""
    said = {kind.verb for kind in KINDS if "two light ones are trained" in " ".join(page(kind, "all").split())}
    assert said == {"distill", "compare"}


def test_what_is_not_chosen_in_a_comparison_is_said():
    said = {one.name: one.help for one in settings_of(Compare)}
    for name in ("teacher_weights", "init_from", "stem"):
        assert "not in compare" in said[name]


def test_help_on_something_else_names_the_groups():
    with pytest.raises(PocketError, match=r"no help on 'trainng'\. Did you mean training"):
        page(Distill, "trainng")
