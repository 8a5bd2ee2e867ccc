"""The proof that parts compose: kinds that this file alone defines, through every door.

No file of `babeldraw/` knows of them; each is a line that the test adds to the table of its kind.
"""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from babeldraw.config import require
from babeldraw.data.tokens import TokenSource
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.layers.linear import Einsum
from babeldraw.tokenizers.base import Codes, Reconstruction, Tokenizer, identity
from babeldraw.tokenizers.kinds import TOKENIZERS, make_tokenizer
from babeldraw.tokenizers.vector_quantizers import Codebook
from babeldraw.train.loop import train
from babeldraw.train.presets import complete

# ------------------------------------------------------------------ a tokenizer of one dimension


@dataclasses.dataclass(frozen=True)
class StripesConfig:
    """Attributes:
    vocab: values of each factor of a code; () for continuous codes.
    dim: values of a factor's vector, or of a continuous code.
    stripes: codes of a picture, from top to bottom.
    """

    vocab: tuple[int, ...] = (8, 6)
    dim: int = 4
    stripes: int = 4
    image_size: tuple[int, int] = (32, 32)
    kind: str = "stripes"

    def __post_init__(self):
        height, _ = self.image_size
        require(height % self.stripes == 0, f"tokenizer.stripes is {self.stripes}; a divisor")

    def tiny(self):
        return self


class StripesNetwork(nn.Module):
    config: StripesConfig

    def setup(self):
        config = self.config
        height, width = config.image_size
        values = height // config.stripes * width * 3
        factors = max(1, len(config.vocab))
        shape = (values, factors, config.dim)
        self.encoder = Einsum("BTP,PKQ->BTKQ", shape, ("patch", None, "code_dim"))
        self.codebooks = [Codebook(size, config.dim) for size in config.vocab]
        self.decoder = Einsum("BTKQ,KQP->BTP", shape[1:] + shape[:1], (None, "code_dim", "patch"))

    def latents(self, images):
        height = self.config.image_size[0] // self.config.stripes
        stripes = images.reshape(images.shape[0], images.shape[1] // height, -1)
        return self.encoder(2 * stripes - 1)

    def draw(self, latents):
        return self.decoder(latents).reshape(latents.shape[0], -1, self.config.image_size[1], 3)

    def __call__(self, images):
        latents = self.latents(images)
        if not self.codebooks:
            return Reconstruction(
                *2 * (self.draw(latents),), latents[:, :, 0], {"kl": 1e-4 * jnp.mean(latents**2)}
            )
        found = [book(latents[:, :, k]) for k, book in enumerate(self.codebooks)]
        drawn = self.draw(jnp.stack([q.codes for q in found], axis=2))
        terms = {f"codebook_{k}": q.codebook_loss for k, q in enumerate(found)}
        terms["commitment"] = sum(q.commitment_loss for q in found)
        return Reconstruction(drawn, drawn, jnp.stack([q.ids for q in found], axis=-1), terms)

    def decode(self, codes):
        if not self.codebooks:
            return jnp.clip(self.draw(codes[:, :, None]), 0.0, 1.0)
        chosen = [book.lookup(codes[..., k]) for k, book in enumerate(self.codebooks)]
        return jnp.clip(self.draw(jnp.stack(chosen, axis=2)), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Stripes(Tokenizer):
    """`half` is pictures of half the height, in half as many codes."""

    config: StripesConfig
    level: str = ""

    @property
    def levels(self):
        return ("whole", "half")

    @property
    def part_of(self):
        return 2 if self.level == "half" else 1

    @property
    def network(self):
        return StripesNetwork(self.config)

    @property
    def codes(self):
        config = self.config
        return Codes(
            (config.stripes // self.part_of,), config.vocab, 0 if config.vocab else config.dim
        )

    @property
    def image_size(self):
        height, width = self.config.image_size
        return (height // self.part_of, width)

    @property
    def groups(self):
        books = tuple(f"codebooks_{k}" for k in range(len(self.config.vocab)))
        return {"encoder": ("encoder",), "quantizer": books, "decoder": ("decoder",)}

    @property
    def code_fields(self):
        return {"image_size": list(self.config.image_size), "stripes": self.config.stripes}

    def init(self, key):
        return self.network.init(key, jnp.zeros((1, *self.config.image_size, 3)))["params"]

    def encode(self, params, images):
        return self.network.apply({"params": params}, images).codes

    def decode(self, params, codes):
        return self.network.apply({"params": params}, codes, method="decode")

    def forward(self, params, images, key=None, frozen=None):
        return self.network.apply({"params": params}, images)


@pytest.fixture(autouse=True)
def stripes(monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "stripes", (StripesConfig, Stripes))


def tokenizer_config(steps=4, **section) -> ConfigDict:
    return complete(
        {
            "objective": "image_tokenizer",
            "train": {"steps": steps, "batch_size": 8, "checkpoint_every": 12, "log_every": 12},
            "data": {"source": "shapes", "num_examples": 64, "eval_split": "test"},
            "tokenizer": {"kind": "stripes", **section},
            "optimizer": {
                "name": "adamw",
                "schedule": {"kind": "constant", "peak": 0.05, "warmup_steps": 0},
            },
            "evaluators": {"reconstruction": {"num_examples": 16, "batch_size": 8}},
        }
    )


VOCABS = {"two factors": (8, 6), "continuous": ()}


@pytest.fixture(params=VOCABS.values(), ids=VOCABS)
def vocab(request):
    return request.param


# Three runs.
@pytest.mark.budget(10)
def test_it_learns_resumes_and_is_judged(vocab, tmp_path):
    figures = train(tokenizer_config(24, vocab=vocab), str(tmp_path / "whole"))
    fresh = train(tokenizer_config(2, vocab=vocab), str(tmp_path / "parts"))
    assert figures["reconstruction/psnr_db"] > fresh["reconstruction/psnr_db"] + 1
    again = train(tokenizer_config(24, vocab=vocab), str(tmp_path / "parts"))
    del figures["seconds"], again["seconds"]
    assert again == figures
    assert ("reconstruction/codebook_usage" in figures) == bool(vocab)
    if vocab:
        # Of 14 values those that occur; the factors' mean of theirs.
        assert 0 < figures["reconstruction/codebook_usage"] <= 1
        assert 1 <= figures["reconstruction/perplexity"] <= np.sqrt(8 * 6)


def test_its_codes_are_stored_and_drawn_again(vocab, cli, tmp_path):
    train(tokenizer_config(vocab=vocab), str(tmp_path / "run"))
    words = [f"--workdir={tmp_path / 'run'}", "--batch_size=4"]
    more = ["--source=shapes", "--split=test", "--num=6", f"--out={tmp_path / 'codes'}"]
    assert cli("tokenize", *words, *more)[0] == 0
    manifest = json.loads((tmp_path / "codes" / "manifest.json").read_text())
    assert (manifest["vocab"], manifest["shape"]) == ([*vocab], [4])
    source, run = TokenSource(tmp_path / "codes", "all"), TokenizerRun.open(str(tmp_path / "run"))
    assert source.tokenizer == run.identity and source.token_spec == (
        run.codes.each,
        run.codes.dtype,
    )
    assert source[3].tokens.shape == ((4, 2) if vocab else (4, 4))
    back = ["--decode", f"--path={tmp_path / 'codes'}", f"--out={tmp_path / 'seen'}"]
    assert cli("tokenize", *words, *back)[0] == 0
    assert len(list((tmp_path / "seen").glob("*.png"))) == 6
    page = [f"--out={tmp_path / 'page'}", "--num=2"]
    assert cli("reconstruct", words[0], *page)[0] == 0


def test_a_new_decoder_keeps_its_codes(tmp_path):
    train(tokenizer_config(), str(tmp_path / "run"))
    config = tokenizer_config()
    config.train_groups, config.tokenizer_run = ("decoder",), str(tmp_path / "run")
    train(config, str(tmp_path / "decoder"))
    one, other = (TokenizerRun.open(str(tmp_path / name)) for name in ("run", "decoder"))
    assert one.identity == other.identity
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), one.params, other.params)
    assert moved["decoder"]["weight"] and not any(jax.tree.leaves({**moved, "decoder": {}}))


def test_codes_of_other_fields_or_arrays_are_others():
    params = nn.unbox(make_tokenizer(StripesConfig()).init(jax.random.key(0)))
    found = identity(Stripes(StripesConfig()), params)
    assert identity(Stripes(StripesConfig(image_size=(64, 16))), params) != found
    assert identity(Stripes(StripesConfig()).at("half"), params) != found
    params["codebooks_1"]["table"] = params["codebooks_1"]["table"] + 1
    assert identity(Stripes(StripesConfig()), params) != found


def test_a_level_is_a_tokenizer_like_others(cli, tmp_path):
    train(tokenizer_config(2), str(tmp_path / "run"))
    run = [f"--workdir={tmp_path / 'run'}", "--level=half"]
    more = ["--source=shapes", "--split=test", "--num=4", f"--out={tmp_path / 'codes'}"]
    assert cli("tokenize", *run, *more)[0] == 0
    source = TokenSource(tmp_path / "codes", "all")
    half = TokenizerRun.open(str(tmp_path / "run"), level="half")
    assert source[0].tokens.shape == half.codes.each == (2, 2)
    assert source.tokenizer == half.identity != TokenizerRun.open(str(tmp_path / "run")).identity
    assert cli("reconstruct", *run, "--num=2", f"--out={tmp_path / 'page'}")[0] == 0
    status, _, said = cli("tokenize", run[0], "--level=third", *more)
    assert status == 2
    assert "level is 'third'; tokenizer.kind=stripes has whole, half" in said


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"tokenizer": {"kind": "stipes"}}, "kind is 'stipes'; the kinds are .*, stripes"),
        ({"tokenizer": {}}, "config.tokenizer.kind is missing; the kinds are .*, stripes"),
        ({"tokenizer": 3}, "config.tokenizer is 3; a section with fields is needed"),
        ({"loss": {"restart_below": 0.1}}, "codes of config.tokenizer.kind=stripes cannot be mo"),
        ({"loss": {"entropy": 0.1}}, "codes of config.tokenizer.kind=stripes have no such term"),
    ],
)
def test_a_kind_that_is_not_there_is_told(change, line):
    with pytest.raises(UserError, match=line):
        complete({**tokenizer_config().to_dict(), **change})


def test_codes_number_the_values_of_all_factors():
    codes = Codes((2,), (3, 2))
    drawn = np.array([[[2, 0], [0, 1]]], np.int32)
    np.testing.assert_array_equal(codes.numbered(drawn), [[[2, 3], [0, 4]]])
    np.testing.assert_array_equal(codes.counts(drawn), [1, 0, 1, 1, 1])
    assert (codes.spec(5).shape, codes.spec(5).dtype, codes.entries) == ((5, 2, 2), np.int32, 5)
    with pytest.raises(UserError, match=r"have the factors \(3, 2\); this network predicts one"):
        _ = codes.vocab_size
    continuous = Codes((2, 3), channels=4)
    assert continuous.spec(1).shape == (1, 2, 3, 4) and continuous.spec(1).dtype == np.float32
