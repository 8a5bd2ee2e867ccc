"""Scores by the picture: their values, stated again in plain loops."""

import numpy as np
import pytest

from babeldraw.complexity.baselines import JpegSize, SquaredError, squares
from babeldraw.data.records import Record
from babeldraw.errors import UserError


def test_squares_are_means_also_at_the_edge():
    image = np.random.default_rng(0).random((7, 5, 3))
    expected = np.empty_like(image)
    for top in range(0, 7, 3):
        for left in range(0, 5, 3):
            part = image[top : top + 3, left : left + 3]
            expected[top : top + 3, left : left + 3] = part.mean((0, 1))
    np.testing.assert_allclose(squares(image, 3), expected, atol=1e-12)


def test_a_plain_picture_is_less_complex_than_noise():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
    plain = np.full_like(noise, 200)
    for scorer in (JpegSize(), SquaredError()):
        low, high = (s.value for s in scorer.score([Record(plain, ""), Record(noise, "")]))
        assert low < high
    (error,) = SquaredError().score([Record(plain, "")])
    assert error.value < 1e-25


def test_a_jpeg_of_better_quality_is_larger():
    noise = Record(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), "")
    sizes = [next(JpegSize(quality).score([noise])).value for quality in (10, 50, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


@pytest.mark.parametrize(
    "make", [lambda: JpegSize(0), lambda: JpegSize(96), lambda: SquaredError(1)]
)
def test_what_does_not_fit_is_told(make):
    with pytest.raises(UserError, match="is"):
        make()
