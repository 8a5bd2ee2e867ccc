"""The share of pairs that find each other, on embeddings that are constructed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.config import DataConfig
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.retrieval import Retrieval, RetrievalConfig, found
from babeldraw.sharding.mesh import MeshConfig, make_mesh

SIDE, LENGTH = 32, 16


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "text.model"
    captions = [shapes.example(i, "test", SIDE, 0)[1] for i in range(200)]
    train_vocabulary(captions, path)
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    return Context(DataConfig(num_examples=20), (SIDE, SIDE), 0, mesh, Vocabulary(path), LENGTH)


def figures(embed, context):
    config = RetrievalConfig(num_examples=20, batch_size=8, num_shown=3)
    return dict(Retrieval(embed, config, context).run(None))


def by_text(state, batch):
    """A picture's embedding is its text's, a vector of its own for each text."""
    codes = jnp.sin(
        batch["text"].astype(jnp.float32) @ jnp.arange(1.0, LENGTH * 8 + 1).reshape(LENGTH, 8)
    )
    codes = codes / jnp.linalg.norm(codes, axis=1, keepdims=True)
    return codes, codes


def moved_on(state, batch):
    """Each picture has the next one's embedding."""
    image, text = by_text(state, batch)
    return jnp.roll(image, 1, axis=0), text


def test_pairs_that_agree_all_find_each_other(context):
    values = figures(by_text, context)
    assert values["image_to_text"] == values["text_to_image"] == 1.0
    # Three pictures, and three rows of three similarities.
    assert values["similarities"].shape == (4 * SIDE, 3 * SIDE, 3)
    assert values["similarities"].dtype == np.uint8
    table = values["similarities"][SIDE + SIDE // 2 :: SIDE, SIDE // 2 :: SIDE, 0]
    np.testing.assert_array_equal(np.diagonal(table), 255)
    assert np.all(table[~np.eye(3, dtype=bool)] < 255)


def test_pairs_that_are_exchanged_do_not(context):
    values = figures(moved_on, context)
    assert values["image_to_text"] < 0.2 and values["text_to_image"] < 0.2


def test_an_equal_caption_is_right_whichever_it_is():
    text = np.array([[1, 2], [1, 2], [3, 0]], np.int32)
    similarity = np.array([[0.1, 0.9, 0.2], [0.1, 0.2, 0.8], [0.0, 0.3, 0.1]], np.float32)
    expected = [[True, False, False], [True, True, False]]
    np.testing.assert_array_equal(found(similarity, text), expected)


@pytest.mark.parametrize(
    ("name", "bad"), [("num_examples", 0), ("batch_size", 1), ("num_shown", 0)]
)
def test_a_bad_value_is_named(name, bad):
    with pytest.raises(UserError, match=f"config.evaluators.retrieval.{name} is {bad}; at least"):
        RetrievalConfig(**{name: bad})
