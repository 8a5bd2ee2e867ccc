"""The evaluator of super-resolution, on an upscaler whose errors are constructed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.config import DataConfig
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.upscaling import Upscaling, UpscalingConfig
from babeldraw.layers.pictures import downsample
from babeldraw.sharding.mesh import MeshConfig, make_mesh

SIDE, NUM = 32, 10


def upscale(state, batch):
    """A tenth darker than the original; the small picture is its mean over cells."""
    images = batch["image"].astype(jnp.float32) / 255
    there = jnp.broadcast_to(batch["mask"][:, None, None, None], images.shape)
    # Padding is off by far, which must not count.
    return jnp.where(there, 0.9 * images, 1.0), downsample(images, 2)


@pytest.fixture(scope="module")
def figures():
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    context = Context(DataConfig(num_examples=40), (SIDE, SIDE), seed=0, mesh=mesh)
    config = UpscalingConfig(num_examples=NUM, batch_size=4, num_shown=6)
    return dict(Upscaling(upscale, config, context).run(None))


def originals():
    return np.stack([shapes.example(i, "test", SIDE, 0)[0] for i in range(NUM)]) / np.float32(255)


def test_figures_of_the_network_and_of_bicubic(figures):
    error = 0.1 * originals()
    assert figures["l1"] == pytest.approx(error.mean(), abs=1e-5)
    assert figures["psnr_db"] == pytest.approx(-10 * np.log10((error**2).mean()), abs=1e-4)
    small = originals().reshape(NUM, SIDE // 2, 2, SIDE // 2, 2, 3).mean((2, 4))
    large = np.clip(jax.image.resize(small, originals().shape, "cubic"), 0, 1)
    l2 = np.square(large - originals()).mean()
    assert figures["bicubic_l2"] == pytest.approx(l2, abs=1e-5)
    assert figures["bicubic_psnr_db"] == pytest.approx(-10 * np.log10(l2), abs=1e-3)
    assert 0.3 < figures["bicubic_ssim"] < figures["ssim"] < 1


def test_a_row_of_the_grid_is_bicubic_network_original(figures):
    grid = figures["upscaled"]
    assert grid.shape == (6 * SIDE, 3 * SIDE, 3)
    # The fifth picture is of the second batch.
    row = grid[4 * SIDE : 5 * SIDE]
    np.testing.assert_array_equal(row[:, 2 * SIDE :], np.round(originals()[4] * 255))
    np.testing.assert_allclose(row[:, SIDE : 2 * SIDE], 0.9 * 255 * originals()[4], atol=0.51)


def test_a_wrong_value_is_named():
    with pytest.raises(UserError, match="config.evaluators.upscaling.batch_size is 0; at least 1"):
        UpscalingConfig(batch_size=0)
