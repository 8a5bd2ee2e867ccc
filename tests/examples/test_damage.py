"""docs/examples/damage.py: damages grow with their strength, and paired figures tell of them."""

import numpy as np
import pytest
from scipy import ndimage

from babeldraw.evaluation import measures
from babeldraw.judges import similarity


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("damage")


@pytest.fixture(scope="module")
def whole():
    noise = np.random.default_rng(0).normal(0, 1, (4, 64, 64, 3))
    return (0.5 + ndimage.gaussian_filter(noise, (0, 1, 1, 0))).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["blur", "noise", "colour"])
def test_more_damage_is_less_alike(script, whole, kind):
    strengths = (0.0, *script.STRENGTHS[kind])
    assert len(strengths) == 6 and list(strengths) == sorted(strengths)
    damaged = [script.damaged(whole, kind, strength) for strength in strengths]
    assert all(0 <= images.min() and images.max() <= 1 for images in damaged)
    np.testing.assert_allclose(damaged[0], whole, atol=0.5 / 255 + 1e-6)
    for figure in (similarity.ssim, similarity.ms_ssim):
        found = [float(np.mean(figure(images, whole))) for images in damaged]
        assert found == sorted(found, reverse=True)
    errors = [float(np.mean(measures.l2(images, whole))) for images in damaged]
    assert errors == sorted(errors) and errors[5] > 10 * errors[1]


def test_a_curve_begins_without_damage(script):
    found = {"none": {"psnr_db": None, "ssim": 1.0}}
    for kind, strengths in script.STRENGTHS.items():
        found |= {f"{kind} {s:g}": {"psnr_db": 30 - s, "ssim": 1 - s / 3} for s in strengths}
    curve = script.curves(found, "psnr_db")["blur"]
    assert np.isnan(curve[0]) and curve[1:] == [30 - s for s in script.STRENGTHS["blur"]]
    assert script.curves(found, "ssim")["colour"][0] == 1.0
