"""Rejection keeps the asked number of the likeliest."""

import numpy as np
import pytest

from babeldraw.drawing.rejection import drawn_for, most_likely
from babeldraw.errors import UserError


@pytest.mark.parametrize(
    ("num", "acceptance", "drawn"), [(8, 1.0, 8), (8, 0.5, 16), (3, 0.7, 5), (1, 0.05, 20)]
)
def test_enough_are_drawn(num, acceptance, drawn):
    assert drawn_for(num, acceptance) == drawn


def test_the_likeliest_stay_in_their_order():
    scores = np.array([0.2, 0.9, 0.1, 0.9, 0.5])
    np.testing.assert_array_equal(most_likely(scores, 3), [1, 3, 4])
    np.testing.assert_array_equal(most_likely(scores, 1), [1])
    np.testing.assert_array_equal(most_likely(scores, 5), range(5))


@pytest.mark.parametrize("acceptance", [0.0, 1.5])
def test_a_share_that_is_none_is_named(acceptance):
    with pytest.raises(UserError, match=f"acceptance is {acceptance}; "):
        drawn_for(1, acceptance)
