"""Fields of super-resolution by codes that cannot be are one line each."""

import dataclasses

import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.enlarger import EnlargerConfig
from babeldraw.models.refiner import RefinerConfig

STACK = TransformerConfig(2, 2, 16, 32)


@pytest.mark.parametrize(
    ("kind", "fields", "line"),
    [
        (RefinerConfig, {"factor": 0}, "config.model.factor is 0; at least 1"),
        (RefinerConfig, {"around": (9, 4)}, "config.model.around is 9 x 4; odd numbers of rows"),
        (EnlargerConfig, {"across": (4, 5)}, "config.model.across is 4 x 5; odd numbers of rows"),
        (EnlargerConfig, {"specials": 0}, "config.model.specials is 0; at least 1"),
        (EnlargerConfig, {"stddev": 0.0}, "config.model.stddev is 0.0; more than 0"),
    ],
)
def test_a_wrong_field_is_named(kind, fields, line):
    with pytest.raises(UserError, match=line):
        kind(decoder=STACK, **fields)


@pytest.mark.parametrize("kind", [EnlargerConfig, RefinerConfig])
def test_dropout_that_windows_have_not_is_refused(kind):
    stack = dataclasses.replace(STACK, attention_dropout=0.1)
    with pytest.raises(UserError, match="decoder.attention_dropout is 0.1 and attention to windo"):
        kind(decoder=stack)
