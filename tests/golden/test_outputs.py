"""What small networks with random weights give: no other version of jax may change it unseen.

After a change that is meant, write the file anew and look at the difference:

    python -m pytest tests/golden --rewrite
"""

import dataclasses
import json
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.kinds import make_generator
from babeldraw.models.maskgen import MaskGenConfig
from babeldraw.models.maskgit import MaskGITConfig
from babeldraw.models.uvit import UViTConfig
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.titok import TiTokConfig
from babeldraw.tokenizers.vqgan import VQGANConfig

RECORD = Path(__file__).parent / "outputs.json"
# Of each array, evenly spread over it.
VALUES = 12
B, T, V, CLASSES = 2, 6, 11, 5
STACK = TransformerConfig(3, 2, 16, 32, activation="gelu_exact", bias=True)
VQGAN = VQGANConfig(
    ConvolutionalConfig(8, (1, 2, 2), latent_channels=6, groups=4),
    (8, 12),
    VQConfig(V, 6, l2_normalized=False),
)
TITOK = TiTokConfig(STACK, STACK, 4, (8, 12), 4, VQConfig(32, 4))
LEGACY = dataclasses.replace(TITOK, scrambled=True, proxy=VQGAN)
TOKENIZERS = {
    "maskgit_vqgan": VQGAN,
    "titok": TITOK,
    "titok, stage 1": LEGACY,
    "titok, stage 2": dataclasses.replace(LEGACY, through_proxy=True),
}
CLASS, FEATURES = ClassCondition(CLASSES, 0.1), FeaturesCondition(3, 6)
GENERATORS = {
    "maskgit of titok": (MaskGITConfig(STACK, style="bert", token_types=2), CLASS),
    "maskgit of google": (
        MaskGITConfig(
            dataclasses.replace(STACK, activation="gelu"),
            style="bert",
            head="mlm",
            mask_is_no_class=True,
        ),
        CLASS,
    ),
    "uvit": (UViTConfig(STACK), CLASS),
    "maskgen": (MaskGenConfig(STACK, text_dim=6, score_dim=8), FEATURES),
}


def drawn(init):
    """Parameters by their names and NumPy's generator alone, at which every one is felt."""

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        spread = 0.3 if leaf.ndim < 2 else (leaf.size / leaf.shape[-1]) ** -0.5
        return jnp.asarray(rng.normal(float("'scale'" in name), spread, leaf.shape), leaf.dtype)

    abstract = jax.eval_shape(lambda key: nn.unbox(init(key)), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, abstract)


def of_tokenizer(config):
    """Codes of pictures, what is drawn from them, and the terms of the loss."""
    tokenizer = make_tokenizer(config)
    images = np.random.default_rng(0).random((B, *tokenizer.image_size, 3), np.float32)
    frozen = {name: drawn(needed.init) for name, needed in tokenizer.needs.items()}
    forward = jax.jit(lambda params, frozen: tokenizer.forward(params, images, frozen=frozen))
    found = forward(drawn(tokenizer.init), frozen)
    own = {"codes": found.codes, "terms": np.stack([found.terms[n] for n in sorted(found.terms)])}
    return own if found.raw is None else {**own, "drawn": found.raw}


def of_generator(config, condition):
    """Logits of codes of which half are known."""
    generator = make_generator(config, condition, Codes((T,), (V,)))
    rng = np.random.default_rng(0)
    said = rng.integers(0, CLASSES, B).astype(np.int32)
    if condition is FEATURES:
        shapes = {"states": (B, 3, 6), "pooled": (B, 6)}
        said = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    codes = rng.integers(0, V, (B, T)).astype(np.int32)
    known = jnp.asarray(np.arange(B * T).reshape(B, T) % 2 == 0)

    @jax.jit
    def run(params, said):
        hidden = generator.hidden(params, generator.read(params, said), codes, known)
        return generator.factor_logits(params, hidden)

    return {"logits": run(drawn(generator.init), said)}


def spread(array):
    """Some values, to seven digits; of codes and of short arrays all."""
    array = np.asarray(array).reshape(-1)
    if array.dtype == np.int32:
        return array.tolist()
    places = np.unique(np.linspace(0, array.size - 1, VALUES).astype(int))
    return [float(f"{value:.7g}") for value in array[places]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TOKENIZERS, *GENERATORS])
def test_the_outputs_are_those_on_record(name, request):
    tokenizer = TOKENIZERS.get(name)
    found = of_generator(*GENERATORS[name]) if tokenizer is None else of_tokenizer(tokenizer)
    found = {what: spread(array) for what, array in found.items()}
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if request.config.getoption("rewrite"):
        RECORD.write_text(json.dumps(records | {name: found}, indent=2) + "\n")
        return
    assert found.keys() == records[name].keys()
    for what, values in found.items():
        # A dead network would stay on record.
        assert what == "terms" or np.std(values) > 0.01
        np.testing.assert_allclose(values, records[name][what], rtol=1e-4, atol=1e-5)
