"""Codes of all levels as one array, and which tokenizers have such."""

import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.tokenizers.all_levels import CodesOfLevels
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.nested_vae import NestedVAEConfig


@pytest.mark.parametrize(
    "codes",
    [
        (Codes((2, 3), (), 5), Codes((1, 2), (), 5)),
        (Codes((4,), (9,)), Codes((2,), (9,))),
        (Codes((4,), (3, 3)), Codes((1,), (3, 3))),
    ],
    ids=["continuous", "numbers", "factors"],
)
def test_each_level_comes_back_as_it_was(codes):
    rng, levels = np.random.default_rng(0), CodesOfLevels(("a", "b"), codes)
    found = [rng.integers(0, 3, (7, *each.each)).astype(each.dtype) for each in codes]
    stored = np.asarray(levels.joined(found))
    assert stored.shape == (7, *levels.whole.each) and stored.dtype == levels.whole.dtype
    expected = np.concatenate(
        [each.reshape(7, codes[i].length, -1) for i, each in enumerate(found)], 1
    )
    np.testing.assert_array_equal(stored.reshape(expected.shape), expected)
    for name, own in zip(levels.names, found, strict=True):
        np.testing.assert_array_equal(levels.of_level(stored, name), own)


def test_one_level_is_not_all():
    one = make_tokenizer(NestedVAEConfig(strides=(32,)))
    with pytest.raises(UserError, match="level is 'all' and tokenizer.kind=nested_vae has one"):
        CodesOfLevels.of(one)
