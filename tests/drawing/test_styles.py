"""Styles: what a text is put into, and what is none."""

from types import SimpleNamespace

import pytest

from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.styles import STYLES, styled, template
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.models.conditions import ClassCondition


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_a_template_with_one_place(style):
    inside = template(style)
    assert inside.count("{}") == 1 and styled("a cat {0}", inside).startswith("a cat {0}")
    assert (inside == "{}") == (style == "none")


def test_a_template_of_one_s_own_is_a_style():
    assert styled("a cat", template("{} in oil")) == "a cat in oil"
    # What says nothing draws without condition, in any style.
    assert styled("  ", template("oil")) == "  "


@pytest.mark.parametrize("style", ["cubism", "{} and {}", ""])
def test_what_is_no_style_is_one_line(style):
    with pytest.raises(UserError, match="style is '.*'; the styles are none, mainbody, .*, or giv"):
        template(style)


def test_a_style_goes_with_texts_alone():
    drawer = SimpleNamespace(generator=SimpleNamespace(condition=ClassCondition(3)))
    sampler = Sampler(drawer, Lexicon(), None, 0, style="oil")
    with pytest.raises(UserError, match="style is 'oil' and the run draws from a class; leave it"):
        sampler.ask(["1"])
