"""`babeldraw reconstruct`: the pictures, their figures and the page are those of the tokenizer."""

import json
import re

import numpy as np
import pytest

from babeldraw.commands.reconstruct import error_map
from babeldraw.data import shapes
from babeldraw.data.image import center_crop, decode, save_png, to_uint8
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.judges import similarity

SIDE = 32


@pytest.fixture
def reconstruct(cli, tokenizer_run, tmp_path):
    """`reconstruct("--num=3")`: the folder written and its figures."""

    def run(*words):
        out = tmp_path / "out"
        status, _, said = cli("reconstruct", f"--workdir={tokenizer_run}", f"--out={out}", *words)
        assert status == 0, said
        return out, json.loads((out / "figures.json").read_text())

    return run


@pytest.mark.slow
def test_the_files_are_the_tokenizer_s_and_the_figures_theirs(reconstruct, tokenizer_run):
    out, figures = reconstruct("--num=5", "--batch_size=2")
    run = TokenizerRun.open(str(tokenizer_run))
    assert [row["name"] for row in figures["pictures"]] == [f"{i:05d}" for i in range(5)]
    for index in (0, 4):
        original, caption = shapes.example(index, "test", SIDE, 0)
        image, ids = (np.asarray(x)[0] for x in run.reconstruct(original[None]))
        row = figures["pictures"][index]
        files = [decode(out / f"{row['name']}_{kind}.png") for kind in ("original", "error")]
        np.testing.assert_array_equal(files[0], original)
        np.testing.assert_allclose(
            decode(out / f"{row['name']}_reconstruction.png"), to_uint8(image), atol=1
        )
        exact = original.astype(np.float32) / 255
        np.testing.assert_allclose(files[1], error_map(image, exact), atol=1)
        l2 = np.mean(np.square(image - exact))
        assert row["l2"] == pytest.approx(l2, rel=1e-4)
        assert row["psnr_db"] == pytest.approx(-10 * np.log10(l2), rel=1e-4)
        ssim = float(similarity.ssim(image[None], exact[None])[0])
        assert row["ssim"] == pytest.approx(ssim, abs=1e-4)
        assert row["codes"] == len(np.unique(ids)) and row["caption"] == caption
    l2 = np.mean([row["l2"] for row in figures["pictures"]])
    assert figures["mean"]["l2"] == pytest.approx(l2)
    assert figures["mean"]["psnr_db"] == pytest.approx(-10 * np.log10(l2))


def test_the_page_shows_every_picture_and_no_markup_of_a_caption(
    reconstruct, tmp_path, tokenizer_run
):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    for index in range(3):
        save_png(folder / f"{index}.png", rng.integers(0, 256, (40, 57, 3), np.uint8))
    (folder / "1.txt").write_text("<b>bold</b> & 'new'")
    (folder / "broken.png").write_bytes(b"no picture")
    out, figures = reconstruct(f"--images={folder}")
    assert len(figures["pictures"]) == 3
    page = (out / "index.html").read_text()
    shown = re.findall(r'<img src="([^"]+)"', page)
    assert len(shown) == 9 and all((out / name).is_file() for name in shown)
    assert "<b>" not in page and "&lt;b&gt;bold&lt;/b&gt; &amp;" in page
    assert f"PSNR {figures['pictures'][2]['psnr_db']:.2f} dB" in page
    # A picture of another size is seen as the tokenizer sees it.
    expected = center_crop(decode(folder / "2.png"), (SIDE, SIDE))
    np.testing.assert_array_equal(decode(out / "00002_original.png"), expected)


def test_the_error_map_goes_from_black_over_red_and_yellow_to_white():
    original = np.zeros((1, 5, 3), np.float32)
    error = np.float32([0, 1 / 12, 2 / 12, 0.25, 1])
    image = original + error[None, :, None]
    expected = [[0, 0, 0], [255, 0, 0], [255, 255, 0], [255, 255, 255], [255, 255, 255]]
    np.testing.assert_array_equal(error_map(image, original)[0], expected)
    # The mean over the colours.
    image = np.float32([[[0.25, 0, 0]]])
    np.testing.assert_array_equal(error_map(image, 0 * image)[0, 0], [255, 0, 0])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--num=-1"], "--num is -1; at least 0 is needed"),
        (["--batch_size=0"], "--batch_size is 0; at least 1 is needed"),
        (
            ["--images=none"],
            "data.path='none' is not a folder; give a folder of pictures or a .zip",
        ),
        (["--perceptual=none"], "--perceptual=none is not there"),
        (["--network=alexnet"], "--network=alexnet says whose --perceptual is; name that file"),
    ],
)
def test_what_a_user_gets_wrong(cli, tokenizer_run, tmp_path, words, line):
    words = [f"--workdir={tokenizer_run}", f"--out={tmp_path / 'out'}", *words]
    status, _, said = cli("reconstruct", *words)
    assert (status, said) == (2, f"babeldraw: error: {line}\n")
    assert not (tmp_path / "out").exists()


def test_a_generator_reconstructs_nothing(cli, generator_run, tmp_path):
    words = [f"--workdir={generator_run}", f"--out={tmp_path / 'out'}"]
    status, _, said = cli("reconstruct", *words)
    assert status == 2 and "is a run of generator; name one of image_tokenizer" in said


@pytest.mark.slow
def test_pictures_that_are_not_square_through_stacks_of_two_sizes(cli, runlocal, tmp_path):
    from babeldraw.train.loop import train

    config = runlocal("demo/tokenizer.py")
    config.tokenizer.image_size = (64, 96)
    config.tokenizer.decoder.update(blocks=2, heads=3, dim=48, hidden=24)
    config.train.steps = 2
    assert train(config, str(tmp_path / "run"))["reconstruction/ssim"] < 1
    words = [f"--workdir={tmp_path / 'run'}", "--num=3", "--batch_size=2"]
    assert cli("reconstruct", *words, f"--out={tmp_path / 'out'}")[0] == 0
    for kind in ("original", "reconstruction", "error"):
        assert decode(tmp_path / "out" / f"00002_{kind}.png").shape == (64, 96, 3)
    # To tokens and back.
    words[1:] = ["--source=shapes", "--split=test", "--num=3", f"--out={tmp_path / 'tokens'}"]
    assert cli("tokenize", *words)[0] == 0
    words = [f"--path={tmp_path / 'tokens'}", f"--out={tmp_path / 'again'}"]
    assert cli("tokenize", "--decode", f"--workdir={tmp_path / 'run'}", *words)[0] == 0
    np.testing.assert_allclose(
        decode(tmp_path / "again" / "00000002.png").astype(int),
        decode(tmp_path / "out" / "00002_reconstruction.png"),
        atol=1,
    )
