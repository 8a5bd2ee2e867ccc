"""docs/examples/photographs.py: crops, the two measures, k-means, what it prints."""

import itertools

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("photographs")


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_no_photograph_is_both_trained_on_and_tested_on(script):
    training = script.TRAIN_COLOUR + script.TRAIN_GREY
    assert len({*training, *script.TEST}) == len(training) + len(script.TEST)


def test_a_crop_is_a_part_of_the_photograph_at_its_own_resolution(script):
    photograph = pictures(131, 140, 3)
    rng = np.random.default_rng(3)
    for _ in range(8):
        cut = script.crop(Image.fromarray(photograph), rng, varied=False)
        places = [
            (top, left)
            for top in range(4)
            for left in range(13)
            if np.array_equal(photograph[top : top + 128, left : left + 128], cut)
        ]
        assert len(places) == 1


def test_a_training_crop_is_turned_mirrored_and_recoloured(script):
    original = pictures(128, 128, 3)
    rng = np.random.default_rng(0)
    crops = [script.crop(Image.fromarray(original), rng, varied=True) for _ in range(1000)]
    placed = [np.rot90(p, n) for p in (original, original[:, ::-1]) for n in range(4)]
    orders = list(itertools.permutations(range(3)))
    possible = {p[..., order].tobytes(): order for p in placed for order in orders}
    seen = [crop.tobytes() for crop in crops]
    # All of the 48, and the colours as they are in half of them and a sixth of the others.
    assert {*seen} == {*possible}
    kept = np.mean([possible[crop] == (0, 1, 2) for crop in seen])
    assert abs(kept - 7 / 12) < 0.1


def test_patches_there_and_back(script):
    images = pictures(2, 16, 24, 3)
    patches = script.to_patches(images)
    assert patches.shape == (12, 192)
    np.testing.assert_array_equal(
        patches[1].reshape(8, 8, 3), images[0, :8, 8:16] / np.float32(255)
    )
    np.testing.assert_array_equal(script.from_patches(patches, images.shape) * 255, images)


def test_psnr_of_each_photograph(script):
    """An error of 0.1 everywhere is 20 dB, of 0.01 it is 40 dB; together the error is the mean."""
    originals = np.zeros((4, 8, 8, 3), np.uint8)
    images = np.zeros((4, 8, 8, 3), np.float32)
    images[0::2], images[1::2] = 0.1, 0.01
    found = script.psnr_by_photograph(originals, images, ["a", "b"])
    both = -10 * np.log10((0.01 + 0.0001) / 2)
    assert found == pytest.approx({"all": both, "a": 20.0, "b": 40.0}, abs=1e-4)


def test_kmeans_finds_the_patches_where_there_are_as_many_codes(script):
    pytest.importorskip("sklearn")
    tiles = np.repeat(np.repeat(pictures(4, 1, 1, 3), 8, axis=1), 8, axis=2)
    train = np.concatenate([tiles[i % 4][None] for i in range(64)])
    images, used = script.kmeans(train, tiles, codes=4)
    np.testing.assert_allclose(images, tiles / 255, atol=1e-5)
    assert used == 1.0


def test_the_photographs_are_in_the_package_and_are_cut_once(script, tmp_path):
    pytest.importorskip("skimage")
    script.write_crops(tmp_path, script.TEST, 4, seed=0, varied=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"0000{i}_{n}.png" for i, n in enumerate(("chelsea", "coffee", "rocket"))] + [
        "00003_chelsea.png"
    ]
    first = script.read_crops(tmp_path)
    assert (first.shape, first.dtype) == ((4, 128, 128, 3), np.uint8)
    script.write_crops(tmp_path, script.TEST, 4, seed=1, varied=False)
    np.testing.assert_array_equal(script.read_crops(tmp_path), first)


def test_the_table_has_both_columns(script):
    figures = {
        "codes": 64,
        "minutes": 1.0,
        "tokenizer": {"all": 25.0, "a": 24.0, "codebook_usage": 0.5, "perplexity": 20.0},
        "kmeans": {"all": 23.0, "a": 22.0, "codebook_usage": 0.25},
    }
    assert script.table(figures).splitlines()[2:] == [
        "| PSNR, all test crops | 25.00 dB | 23.00 dB |",
        "| PSNR, a | 24.00 dB | 22.00 dB |",
        "| codes in use, of 64 | 50 % | 25 % |",
    ]
