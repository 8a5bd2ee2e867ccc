"""docs/examples/sharpening.py: its figures of sharpness."""

import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("sharpening")


def test_a_blur_lowers_both_figures_and_the_original_has_one_of_each(script):
    images = np.random.default_rng(0).random((3, 32, 48, 3), np.float32)
    blurred = (images + np.roll(images, 1, axis=2)) / 2
    same = script.measure(images, np.clip(images + 1e-6, 0, 1))
    assert same["gradient"] == pytest.approx(1, abs=1e-3)
    assert same["finest_octave"] == pytest.approx(1, abs=1e-3)
    found = script.measure(images, blurred)
    assert found["gradient"] < 0.9 and found["finest_octave"] < 0.7
    assert found["psnr_db"] < same["psnr_db"]


@pytest.mark.parametrize(("period", "counts"), [(2, True), (4, True), (6, False), (16, False)])
def test_the_finest_octave_is_of_wavelengths_of_two_to_four_pixels(script, period, counts):
    wave = 0.5 + 0.4 * np.cos(2 * np.pi * np.arange(48) / period)
    images = np.broadcast_to(wave[None, None, :, None], (1, 48, 48, 3))
    power = script.finest_octave(images)
    # Parseval: half of the spectrum is kept, but all of the frequency of period 2.
    share = power / (48**2 * np.sum(np.square(images[..., 0] - images.mean())))
    assert share == pytest.approx({2: 1, 4: 0.5}.get(period, 0), abs=1e-6)
    assert counts == (share > 0.1)
