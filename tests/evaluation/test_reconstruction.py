"""The evaluator of tokenizers, on a tokenizer whose errors and codes are constructed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data.config import DataConfig
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.pictures import Distance
from babeldraw.evaluation.reconstruction import Reconstruction, ReconstructionConfig
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.base import Codes

SIDE, V = 32, 16


def context(size=(SIDE, SIDE), devices=2):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    return Context(DataConfig(num_examples=40), size, seed=0, mesh=mesh)


def figures(reconstruct, distances=None, size=(SIDE, SIDE), devices=2, **config):
    config = ReconstructionConfig(**{"num_examples": 20, "batch_size": 8, **config})
    place, codes = context(size, devices), Codes((2, 2), (V,))
    return dict(Reconstruction(reconstruct, config, place, codes, distances).run(None))


def code_of_place(state, batch):
    """A tenth darker or, where it is dark, as it was; the code is the picture's place in its batch.

    Padding has a code and an error of its own, which must not count.
    """
    images = batch["image"].astype(jnp.float32) / 255
    there = batch["mask"][:, None, None, None]
    images = jnp.where(jnp.broadcast_to(there, images.shape), images, jnp.ones_like(images))
    places = jnp.where(batch["mask"], jnp.arange(len(images)), V - 1).astype(jnp.int32)
    return 0.9 * images, jnp.broadcast_to(places[:, None], (len(images), 4))


def originals(count=20):
    from babeldraw.data import shapes

    return np.stack([shapes.example(i, "test", SIDE, 0)[0] for i in range(count)]) / 255


def test_figures_are_means_over_the_pictures_that_are_there():
    found = figures(code_of_place)
    error = 0.1 * originals()
    assert found["l1"] == pytest.approx(error.mean(), abs=1e-5)
    assert found["l2"] == pytest.approx((error**2).mean(), abs=1e-5)
    assert found["psnr_db"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
    assert 0.9 < found["ssim"] < 1
    # Codes 0 to 7: 8 + 8 + 4 pictures.
    counts = np.array([3, 3, 3, 3, 2, 2, 2, 2]) / 20
    assert found["perplexity"] == pytest.approx(np.exp(-np.sum(counts * np.log(counts))))
    assert "lpips" not in found
    # 32 pixels have two scales of the five, which the name says.
    assert 0.9 < found["ms_ssim_2_scales"] < 1 and "ms_ssim" not in found
    for name in ("psnr_db", "ssim", "l1"):
        interval = found[name].interval
        assert interval.low < found[name] < interval.high and found[name].num == 20


@pytest.mark.parametrize(
    ("usage_batch", "num", "usage", "pictures"),
    [
        # Two whole batches of eight; the last of four is left out.
        (8, 20, 8 / V, 8),
        # One whole batch of sixteen, whose two halves share their codes.
        (16, 20, 8 / V, 16),
        # Fewer than a batch: what there is, and the figure beside says so.
        (256, 20, 8 / V, 20),
        (256, 4, 4 / V, 4),
        (8, 4, 4 / V, 4),
        (8, 8, 8 / V, 8),
    ],
)
def test_usage_is_the_share_of_codes_in_a_batch_of_pictures(usage_batch, num, usage, pictures):
    found = figures(code_of_place, usage_batch=usage_batch, num_examples=num)
    assert found["codebook_usage"] == pytest.approx(usage)
    assert found["codebook_usage_pictures"] == pictures


def test_usage_is_averaged_over_batches_and_counts_each_code_once():
    def reconstruct(state, batch):
        images, ids = code_of_place(state, batch)
        # By the pictures' brightness: batches differ in the number of their codes.
        mean = images.mean((1, 2, 3))
        return images, jnp.broadcast_to((mean * V).astype(jnp.int32)[:, None], ids.shape)

    brightness = (np.float32(0.9) * originals(16).mean((1, 2, 3)) * V).astype(int)
    shares = [len(np.unique(part)) / V for part in (brightness[:8], brightness[8:])]
    found = figures(reconstruct, usage_batch=8)
    assert found["codebook_usage"] == pytest.approx(np.mean(shares))
    both = figures(reconstruct, usage_batch=16)["codebook_usage"]
    assert both == pytest.approx(len(np.unique(brightness)) / V)
    assert both > min(shares)


def test_any_batches_on_any_devices_give_the_same():
    def by_brightness(state, batch):
        images, ids = code_of_place(state, batch)
        mean = (images.mean((1, 2, 3)) * V).astype(jnp.int32)
        return images, jnp.broadcast_to(mean[:, None], ids.shape)

    one, eight = (
        figures(by_brightness, devices=devices, batch_size=size, usage_batch=24)
        for devices, size in ((1, 4), (8, 24))
    )
    np.testing.assert_array_equal(one.pop("reconstructions"), eight.pop("reconstructions"))
    assert one == pytest.approx(eight, rel=1e-6) and len(one) == 11
    assert one["ssim"].interval.low == pytest.approx(eight["ssim"].interval.low, rel=1e-6)


def test_use_stands_beside_that_of_uniform_draws():
    found = figures(code_of_place, usage_batch=8, num_examples=16)
    # Eight pictures of four places: 32 draws. At a place they have eight different codes.
    assert found["codebook_usage_uniform"] == pytest.approx(1 - (15 / 16) ** 32)
    at_a_place = 8 / (16 * (1 - (15 / 16) ** 8))
    assert found["place_usage"] == found["place_usage_least"] == pytest.approx(at_a_place)


def test_a_perceptual_distance_is_averaged_as_the_others():
    def distance(weight, state, images, originals):
        return weight * jnp.mean(jnp.abs(images - originals), axis=(1, 2, 3))

    found = figures(code_of_place, {"lpips": Distance(distance, jnp.float32(7))})
    assert found["lpips"] == pytest.approx(7 * found["l1"], rel=1e-5)


def test_the_grid_shows_originals_over_reconstructions():
    grid = figures(code_of_place, num_shown=10)["reconstructions"]
    # Ten pictures, eight side by side: the two of a row that is not whole are left out.
    assert grid.shape == (2 * SIDE, 8 * SIDE, 3) and grid.dtype == np.uint8
    np.testing.assert_array_equal(grid[:SIDE, :SIDE], np.round(originals(1)[0] * 255))
    np.testing.assert_allclose(grid[SIDE:, :SIDE], originals(1)[0] * 0.9 * 255, atol=0.51)


def test_pictures_that_are_not_square():
    assert figures(code_of_place, size=(32, 48))["reconstructions"].shape == (128, 8 * 48, 3)


def test_a_perfect_tokenizer_has_no_error():
    def perfect(state, batch):
        images, ids = code_of_place(state, batch)
        return images / 0.9, ids

    found = figures(perfect)
    assert found["ssim"] == pytest.approx(1, abs=1e-5) and found["psnr_db"] > 100


def test_batches_that_do_not_make_up_the_usage_batch_are_refused():
    with pytest.raises(UserError, match="usage_batch is 256, which batch_size=100 does not divide"):
        ReconstructionConfig(batch_size=100)
