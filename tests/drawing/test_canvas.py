"""What of a picture is kept: rows, tokens, and what a mask leaves."""

import numpy as np
import pytest

from babeldraw.drawing.canvas import keep_first, keep_rows, keep_unmasked, keep_untouched
from babeldraw.errors import UserError
from babeldraw.tokenizers.base import Codes

GRID = Codes((3, 4), (5,))
LINE = Codes((12,), (5,))


def kept(mask, image_size=(24, 32)):
    mask = np.asarray(mask)
    return keep_unmasked(mask, mask.shape, image_size, GRID).reshape(3, 4)


def test_rows_and_counts_are_kept_from_the_start():
    np.testing.assert_array_equal(np.flatnonzero(keep_rows(2, GRID)), np.arange(8))
    np.testing.assert_array_equal(np.flatnonzero(keep_first(5, LINE)), np.arange(5))
    assert not keep_rows(0, GRID).any() and keep_rows(3, GRID).all()


def test_one_masked_pixel_redraws_its_token_alone():
    for row in range(24):
        for column in range(32):
            mask = np.zeros((24, 32), np.uint8)
            mask[row, column] = 255
            expected = np.ones((3, 4), bool)
            expected[row // 8, column // 8] = False
            np.testing.assert_array_equal(kept(mask), expected)


def test_a_mask_is_cropped_as_its_picture_is():
    # Of 40 x 40 px, the middle 30 rows are a crop of the tokenizer's shape.
    mask = np.zeros((40, 40), bool)
    mask[:5] = True
    assert kept(mask).all()
    mask[5] = True
    np.testing.assert_array_equal(kept(mask), [[False] * 4, [True] * 4, [True] * 4])


@pytest.mark.parametrize("shape", [(24, 32), (25, 31), (2, 3), (7, 50)])
def test_a_code_is_drawn_where_the_mask_touches_its_patch(shape):
    # In units in which both patches and pixels are whole numbers.
    h, w = GRID.shape
    for row, column in np.ndindex(shape):
        mask = np.zeros(shape, bool)
        mask[row, column] = True
        expected = np.ones((h, w), bool)
        for i, j in np.ndindex(h, w):
            apart = (
                (row + 1) * h <= i * shape[0]
                or (i + 1) * shape[0] <= row * h
                or (column + 1) * w <= j * shape[1]
                or (j + 1) * shape[1] <= column * w
            )
            expected[i, j] = apart
        np.testing.assert_array_equal(keep_untouched(mask, GRID).reshape(h, w), expected)


def test_grey_below_the_middle_is_not_masked():
    assert kept(np.full((24, 32), 127, np.uint8)).all()
    assert not kept(np.full((24, 32), 128, np.uint8)).any()


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="rows is 4; a picture has 3 rows of tokens: give 0 to 3"):
        keep_rows(4, GRID)
    with pytest.raises(UserError, match="13 tokens are to be kept and a picture has 12"):
        keep_first(13, LINE)
    with pytest.raises(UserError, match="a sequence of 12 tokens; keep a number of tokens"):
        keep_rows(1, LINE)
    with pytest.raises(UserError, match="the mask is 8 x 9 px and the picture 32 x 24 px"):
        keep_unmasked(np.zeros((9, 8)), (24, 32), (24, 32), GRID)
