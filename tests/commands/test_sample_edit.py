"""`babeldraw sample --image`: pictures of any kind of file, holes of any kind, whole folders."""

import json

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.image import decode

PROMPT = "--prompt=a small red circle"
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of several kinds, with a mask of 53 x 41 px."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = RNG.integers(0, 256, (41, 53, 4), np.uint8)
    Image.fromarray(colours[..., :3]).save(folder / "rgb.png")
    Image.fromarray(colours).save(folder / "rgba.png")
    Image.fromarray(colours[..., 0]).save(folder / "grey.png")
    Image.fromarray(colours[:30]).save(folder / "small.png")
    mask = np.zeros((41, 53), np.uint8)
    mask[30:41, 40:50] = 255 * (RNG.random((11, 10)) < 0.6)
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(mask[:, 1:]).save(folder / "narrow.png")
    Image.fromarray(0 * mask).save(folder / "empty.png")
    (folder / "text.png").write_text("no picture")
    (folder / "nothing").mkdir()
    return folder


@pytest.fixture
def sample(cli, generator_run, tmp_path):
    """`sample("--box=...")`: the lines of the manifest, each with its picture."""

    def run(*words, out="out"):
        out = tmp_path / out
        status, _, said = cli("sample", f"--workdir={generator_run}", f"--out={out}", *words)
        assert status == 0, said
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        for line in lines:
            line["image_drawn"] = decode(out / line["file"])
        assert (out / "grid.png").exists()
        return lines, said

    return run


@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey"])
def test_what_a_mask_leaves_is_written_bit_by_bit(sample, folder, kind):
    picture, mask = folder / f"{kind}.png", folder / "mask.png"
    words = [PROMPT, f"--image={picture}", f"--mask={mask}", "--num=2"]
    lines, _ = sample(*words, "--seam=blend", "--feather=2")
    hole = decode(mask)[..., 0] > 127
    with Image.open(picture) as opened:
        # As a viewer shows it: transparency over white.
        white = Image.new("RGBA", opened.size, "white")
        given = np.asarray(Image.alpha_composite(white, opened.convert("RGBA")))[..., :3]
    for line in lines:
        np.testing.assert_array_equal(line["image_drawn"][~hole], given[~hole])
        assert (line["image_drawn"][hole] != given[hole]).any()
        assert (line["seam"], line["feather"], line["mask"]) == ("blend", 2, str(mask))
        assert line["picture"] == f"{kind}.png"


@pytest.mark.slow
def test_a_box_is_a_mask(sample, folder, cli, generator_run, tmp_path):
    image = f"--image={folder / 'rgb.png'}"
    lines, _ = sample(PROMPT, image, "--box=3,0,20,10")
    given, hole = decode(folder / "rgb.png"), np.zeros((41, 53), bool)
    hole[0:10, 3:20] = True
    (line,) = lines
    assert line["box"] == ["3", "0", "20", "10"] and "mask" not in line
    np.testing.assert_array_equal(line["image_drawn"][~hole], given[~hole])
    assert (line["image_drawn"][hole] != given[hole]).mean() > 0.5
    Image.fromarray(hole).save(folder / "box.png")
    (masked,), said = sample(PROMPT, image, f"--mask={folder / 'box.png'}", out="masked")
    np.testing.assert_array_equal(masked["image_drawn"], line["image_drawn"])
    assert "the model draws" not in said
    # Another mask of that name makes other pictures: the folder is not gone on with.
    Image.fromarray(hole[::-1]).save(folder / "box.png")
    words = [f"--workdir={generator_run}", f"--out={tmp_path / 'masked'}", PROMPT, image]
    status, _, said = cli("sample", *words, f"--mask={folder / 'box.png'}")
    assert status == 2 and "holds pictures with edited " in said


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A folder of five pictures of several sizes, and one of a mask for each."""
    folder = tmp_path_factory.mktemp("five")
    for number, (height, width) in enumerate([(32, 32), (40, 33), (64, 64), (35, 50), (33, 33)]):
        for name in ("images", "masks"):
            (folder / name).mkdir(exist_ok=True)
        image = RNG.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(image).save(folder / "images" / f"p{number}.bmp")
        mask = np.zeros((height, width), np.uint8)
        mask[4 + number : 12, 5:15] = 255
        Image.fromarray(mask).save(folder / "masks" / f"p{number}.png")
    return folder


@pytest.mark.slow
@pytest.mark.budget(8)
def test_the_pictures_of_a_folder_are_completed(sample, five):
    (five / "images" / "notes.txt").write_text("no picture by its name")
    (five / "images" / "bad.png").write_text("no picture by its bytes")
    words = [PROMPT, "--prompt=two green rings", f"--image={five / 'images'}", "--complete=0.5"]
    lines, said = sample(*words, "--batch_size=4")
    assert "bad.png" in said and "it is left out" in said
    assert [line["picture"] for line in lines] == [f"p{n}.bmp" for n in range(5) for _ in "ab"]
    assert [line["prompt"] for line in lines[:2]] == ["a small red circle", "two green rings"]
    assert lines[2]["file"] == "00002_p1_a-small-red-circle_seed0.png"
    for line in lines:
        given = decode(five / "images" / line["picture"])
        side = min(given.shape[:2])
        top, left = (given.shape[0] - side) // 2, (given.shape[1] - side) // 2
        given = given[top : top + side, left : left + side]
        kept = (side + 1) // 2
        np.testing.assert_array_equal(line["image_drawn"][:kept], given[:kept])
        assert (line["image_drawn"][kept:] != given[kept:]).mean() > 0.5
    # It goes on where it stopped, but not with other pictures.
    again, said = sample(*words, "--batch_size=4")
    assert "10 of 10 prompts are drawn" in said
    assert [line["file"] for line in again] == [line["file"] for line in lines]


def test_each_picture_of_a_folder_has_its_mask(sample, five):
    words = [PROMPT, f"--image={five / 'images'}", f"--mask={five / 'masks'}", "--batch_size=4"]
    lines, _ = sample(*words)
    assert len(lines) == 5
    for line in lines:
        given = decode(five / "images" / line["picture"])
        hole = decode(five / "masks" / line["picture"].replace("bmp", "png"))[..., 0] > 127
        np.testing.assert_array_equal(line["image_drawn"][~hole], given[~hole])
        assert (line["image_drawn"][hole] != given[hole]).any()


def test_the_scale_is_told(sample, folder):
    words = [PROMPT, f"--image={folder / 'rgb.png'}", "--box=0,0,40,10"]
    lines, said = sample(*words, "--encode_again")
    assert "the model draws 41 x 41 px around the hole, as 32 x 32 px" in said
    assert lines[0]["encode_again"] is True and "scale" not in lines[0]


RGB, BOX = "--image=HERE/rgb.png", "--box=0,0,4,4"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([RGB], "rgb.png is given with no hole; give one of --mask, --box, --complete, --rows"),
        ([RGB, BOX, "--complete=0"], "is given with --box and --complete; give one of --mask"),
        ([BOX], "--box says how --image is changed and there is none; give a picture, or a"),
        (["--seam=blend"], "--seam says how --image is changed and there is none; give a"),
        ([RGB, "--mask=HERE/narrow.png"], "mask is 52 x 41 px and the picture 53 x 41 px; they"),
        ([RGB, "--mask=HERE/empty.png"], "rgb.png: the mask has no hole: nothing in it is above"),
        ([RGB, "--mask=HERE/text.png"], "--mask=HERE/text.png: no picture"),
        ([RGB, "--mask=HERE/nothing"], "--mask=HERE/nothing holds no picture; give a folder"),
        (["--image=HERE/nothing", BOX], "--image=HERE/nothing holds no picture; give a folder"),
        (["--image=HERE/none.png", BOX], "--image=HERE/none.png: "),
        (
            ["--image=HERE/small.png", BOX],
            "px, and the picture is 53 x 30 px; give a larger picture, or --scale=0.937 at most",
        ),
        ([RGB, "--box=0,0,54,9"], "--box is 0,0,54,9 and the picture 53 x 41 px; give x0,y0,x1,"),
        ([RGB, "--box=0,0,a,9"], "--box is 0,0,a,9; four whole numbers x0,y0,x1,y1 are needed"),
        ([RGB, "--complete=1"], "--complete is 1.0; the share of the picture that is kept is"),
        ([RGB, "--rows=4"], "--rows is 4 and a picture has no more: nothing is left to"),
        ([RGB, "--rows=5"], "--rows is 5; a picture has 4 rows of tokens: give 0 to 4"),
        ([RGB, BOX, "--seam=blend", "--feather=0"], "--feather is 0; at least 1 is needed"),
        ([RGB, BOX, "--feather=8"], "--feather=8 is of --seam=blend and the seam is exact; give"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_edited_is_one_line(cli, generator_run, folder, tmp_path, words, line):
    words = [word.replace("HERE", str(folder)) for word in words]
    out = tmp_path / "out"
    status, _, said = cli("sample", f"--workdir={generator_run}", PROMPT, f"--out={out}", *words)
    assert status == 2 and line.replace("HERE", str(folder)) in said
    assert "Traceback" not in said and not out.exists()
