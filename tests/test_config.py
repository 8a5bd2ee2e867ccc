"""Configs: a section becomes what its dataclass says; a mistake is one line with the full path."""

import dataclasses
import json

import ml_collections
import pytest

from babeldraw.config import build, require, to_dict
from babeldraw.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    width: int
    rate: float = 0.5

    def __post_init__(self):
        require(self.width > 0, f"width is {self.width}; at least 1 is needed")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    name: str = "small"
    shuffle: bool = False
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, float] = (1, 0.5)
    limit: int | None = None
    spare: Inner | None = None
    more: tuple[Inner, ...] = ()


def complaint(config, cls=Outer, path="config"):
    """The one line that `build` refuses `config` with."""
    with pytest.raises(UserError) as caught:
        build(cls, config, path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("mapping", [dict, ml_collections.ConfigDict])
def test_a_section_becomes_its_dataclass(mapping):
    config = mapping({"inner": {"width": 3}, "shuffle": True, "sizes": (4, 5, 6)})
    assert build(Outer, config) == Outer(Inner(3), shuffle=True, sizes=(4, 5, 6))


def test_defaults_live_in_the_dataclass_alone():
    assert build(Outer, {"inner": {"width": 3}}) == Outer(Inner(3))


def test_a_dataclass_may_stand_for_its_section():
    assert build(Outer, {"inner": Inner(3), "spare": Inner(4)}) == Outer(Inner(3), spare=Inner(4))


def test_an_integer_is_a_float():
    rate = build(Inner, {"width": 1, "rate": 2}).rate
    assert rate == 2.0 and type(rate) is float
    assert type(build(Outer, {"inner": {"width": 1}, "pair": (1, 2)}).pair[1]) is float


def test_lists_become_tuples():
    built = build(Outer, {"inner": {"width": 1}, "sizes": [7], "pair": [2, 0.25]})
    assert built.sizes == (7,) and built.pair == (2, 0.25)
    assert build(Outer, {"inner": {"width": 1}, "sizes": []}).sizes == ()


def test_none_is_for_optional_fields():
    built = build(Outer, {"inner": {"width": 1}, "limit": None, "spare": None})
    assert built.limit is None and built.spare is None
    built = build(Outer, {"inner": {"width": 1}, "limit": 3, "spare": {"width": 2}})
    assert built.limit == 3 and built.spare == Inner(2)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"name": 3}, "config.name is 3"),
        ({"name": None}, "config.name is None"),
        ({"shuffle": 1}, "config.shuffle is 1"),
        ({"inner": None}, "config.inner is None"),
        ({"inner": 5}, "config.inner is 5"),
        ({"inner": {"width": True}}, "config.inner.width is True"),
        ({"inner": {"width": 1.0}}, "config.inner.width is 1.0"),
        ({"inner": {"width": "1"}}, "config.inner.width is '1'"),
        ({"inner": {"width": {"a": 1}}}, "config.inner.width is"),
        ({"inner": {"width": 1, "rate": True}}, "config.inner.rate is True"),
        ({"inner": {"width": 1, "rate": "fast"}}, "config.inner.rate is 'fast'"),
        ({"limit": 0.5}, "config.limit is 0.5"),
        ({"limit": True}, "config.limit is True"),
        ({"spare": {"width": None}}, "config.spare.width is None"),
        ({"sizes": 3}, "config.sizes is 3"),
        ({"sizes": "12"}, "config.sizes is '12'"),
        ({"sizes": (1, 2.5)}, "config.sizes[1] is 2.5"),
        ({"pair": (1,)}, "config.pair is (1,)"),
        ({"pair": (True, 1.0)}, "config.pair[0] is True"),
        ({"name": "two\nlines", "limit": "two\nlines"}, "config.limit is 'two\\nlines'"),
    ],
)
def test_a_value_of_another_type_is_refused(changes, path):
    assert complaint({"inner": {"width": 1}, **changes}).startswith(path)


def test_a_section_in_place_of_a_value_is_told_in_one_line():
    section = ml_collections.ConfigDict({"inner": {"width": {"first": 1, "second": 2}}})
    assert complaint(section).startswith("config.inner.width is")


def test_an_unknown_field_brings_a_suggestion():
    message = complaint({"inner": {"widht": 3}})
    assert message.startswith("config.inner.widht") and '"width"' in message


def test_an_unknown_field_unlike_all_others_brings_the_list():
    message = complaint({"inner": {"width": 1, "zzz": 3}}, path="config.model")
    # The section is called what the caller calls it.
    assert message.startswith("config.model.inner.zzz")
    assert "rate, width" in message


def test_a_missing_field_is_named_with_its_type():
    assert complaint({}).startswith("config.inner is missing")
    message = complaint({"inner": {}})
    assert message.startswith("config.inner.width is missing") and "int" in message


def test_what_a_dataclass_finds_wrong_itself_is_told():
    message = complaint({"inner": {"width": 0}}, path="config.model")
    # Two sections may be of one type, so the dataclass alone cannot know its own path.
    assert "config.model.inner" in message and "width is 0; at least 1 is needed" in message


@pytest.mark.parametrize("spare", [None, Inner(2, 0.25)])
def test_plain_values_go_through_json_and_come_back(spare):
    outer = Outer(Inner(3), "large", True, (4,), (5, 1.5), 6, spare)
    assert build(Outer, json.loads(json.dumps(to_dict(outer)))) == outer


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        # As a flag gives `({"width": 3})`: the names of its fields.
        (("width",), "('width',)"),
        ({"width": 3}, "{'width': 3}"),
        (ml_collections.ConfigDict({"width": 3}), "width: 3"),
        ("a/run", "'a/run'"),
    ],
)
def test_a_section_where_several_are_wanted_is_told_of_its_comma(value, shown):
    said = complaint({"inner": {"width": 1}, "more": value})
    assert said == f"config.more is {shown}; sections are needed, one as ({{...}},) with the comma"
    assert build(Outer, {"inner": {"width": 1}, "more": ({"width": 3},)}).more == (Inner(3),)
