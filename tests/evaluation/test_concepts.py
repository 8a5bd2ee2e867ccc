"""The judge of the emoji world: true pictures are found, and other styles keep the concept."""

import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.emoji import LIST, Entry, captions
from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.evaluation.concepts import Concepts, ConceptsConfig, Gallery, nearest
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.weights import flatten, write_weights
from babeldraw.train.experiment import parse

STYLES, CONCEPTS, SIDE = ("A", "B"), 6, 16


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """AlexNet's, random."""
    network = PerceptualNetwork(PerceptualConfig(network="alexnet"))
    file = tmp_path_factory.mktemp("weights") / "alexnet_lpips.safetensors"
    params = nn.unbox(network.init(jax.random.key(0)))
    write_weights(file, flatten(params), {"kind": "alexnet_lpips"})
    return str(file)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Concept c in style s: random pixels, the two styles of a concept near each other."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    rows = []
    for concept in range(CONCEPTS):
        base = rng.integers(0, 200, (SIDE, SIDE, 3))
        for style in STYLES:
            split = "unseen_pairs" if (concept, style) == (0, "B") else "train"
            name = f"thing {concept}"
            file = f"{split}/{concept}_{style}.png"
            (folder / split).mkdir(exist_ok=True)
            picture = base + 4 * (style == "B")
            save_png(folder / file, picture.astype(np.uint8))
            entry = Entry(file, captions(name, style), f"{concept:x}", name, style)
            rows.append(json.dumps(vars(entry)))
    (folder / LIST).write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def gallery(world, weights):
    return Gallery.read(world, weights)


def test_nearest_are_those_of_least_distance():
    rng = np.random.default_rng(0)
    x_ND, set_MD = rng.normal(size=(5, 7)), rng.normal(size=(40, 7))
    distance = np.linalg.norm(x_ND[:, None] - set_MD[None], axis=-1)
    assert (nearest(x_ND, set_MD, 5) == np.argsort(distance, axis=1)[:, :5]).all()


def test_true_pictures_are_right_in_everything(gallery):
    asked = np.arange(len(gallery.entries))
    for name, right_N in gallery.judge(gallery.images, asked).items():
        assert right_N.all(), name


def test_the_concept_in_another_style_is_right_but_for_the_style(gallery):
    asked = np.arange(len(gallery.entries))
    # The two styles of a concept follow one another.
    right = gallery.judge(gallery.images[asked ^ 1], asked)
    assert right["concept"].all() and right["concept_top5"].all()
    assert not right["style"].any() and not right["both"].any()


def test_another_concept_is_wrong_in_its_concept_alone(gallery):
    asked = np.arange(len(gallery.entries))
    right = gallery.judge(np.roll(gallery.images, 2, axis=0), asked)
    assert not right["concept"].any() and right["style"].all()


def test_a_true_picture_without_itself_finds_its_other_style(gallery):
    assert gallery.found_again(np.arange(len(gallery.entries))).all()


def found_of(folder, weights, times=1):
    """What is found where each true picture is drawn, so many times as large."""

    class Context:
        seed = 0

        class data:
            path = str(folder)

    config = ConceptsConfig(file=weights, sampling=SamplingConfig(), num_shown=2)
    judge = Concepts(lambda *_: None, config, Context)
    judge._draw = lambda state, gallery, asked, sampling: (
        gallery.images[asked].repeat(times, axis=1).repeat(times, axis=2)
    )
    return dict(judge.run(None))


def test_without_held_out_pairs_their_figures_are_left_out(world, weights, tmp_path):
    """As of a world of one style."""
    rows = [line for line in (world / LIST).read_text().splitlines() if '"B"' not in line]
    (tmp_path / "train").mkdir()
    for file in (world / "train").glob("*_A.png"):
        (tmp_path / "train" / file.name).write_bytes(file.read_bytes())
    (tmp_path / LIST).write_text("\n".join(rows) + "\n")

    found = found_of(tmp_path, weights)
    assert found["concept_seen"] == found["both_seen"] == 1
    assert found["chance"] == 1 / CONCEPTS
    assert "true_concept" not in found and not any("unseen" in name for name in found)


def test_pictures_drawn_larger_than_the_true_ones_stand_beside_them(world, weights):
    found = found_of(world, weights, times=2)
    # Two of a row, drawn above true.
    assert found["samples_seen"].shape[0] == found["samples_seen"].shape[1]
    assert found["samples_seen"].shape[0] >= 4 * SIDE


def test_splits_are_by_their_folder(gallery):
    assert [gallery.entries[index].file for index in gallery.of("unseen_pairs")] == [
        "unseen_pairs/0_B.png"
    ]


def check(context, **fields):
    Concepts(lambda *_: None, ConceptsConfig(**fields), context).check()


def test_what_is_missing_is_said_before_any_step(world, weights, tmp_path):
    class Context:
        class data:
            path = str(world)

    check(Context, file=weights)
    with pytest.raises(UserError, match=r"concepts.file is empty; name a file"):
        check(Context)
    with pytest.raises(UserError, match=r"config.evaluators.concepts.file=.*absent"):
        check(Context, file="absent.safetensors")
    Context.data.path = str(tmp_path)
    with pytest.raises(UserError, match="is no folder of `babeldraw emoji`"):
        check(Context, file=weights)
    # As of a run on stored tokens.
    check(Context, file=weights, path=str(world))


def test_other_data_than_a_folder_are_refused(runlocal):
    config = runlocal("demo/text_to_image.py")
    config.evaluators.concepts = to_dict(ConceptsConfig(file="x"))
    with pytest.raises(UserError, match="of a folder of `babeldraw emoji` only"):
        parse(config)
    config.evaluators.concepts.path = "emoji"
    parse(config)
