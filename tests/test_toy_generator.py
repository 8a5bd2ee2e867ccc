"""The proof that parts compose: a masked generator that this file alone defines, on toy codes.

Its network and its prediction are each a line that the test adds to a table; no file of
`babeldraw/` knows of them. From a text, from a class and from nothing it is trained, goes on, draws
with guidance and around kept codes, is judged, compiled for a TPU and given away.
"""

import dataclasses
import json

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from babeldraw.config import require
from babeldraw.data import shapes
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.positions import GridPositions
from babeldraw.layers.stack import unstack
from babeldraw.models.base import Generator, example
from babeldraw.models.condition import Condition
from babeldraw.models.head import CodeEmbedding, Head
from babeldraw.models.kinds import NETWORKS
from babeldraw.prediction.base import Prediction
from babeldraw.prediction.kinds import PREDICTIONS
from babeldraw.prediction.logits import guide
from babeldraw.tokenizers.base import Codes
from babeldraw.tokenizers.kinds import TOKENIZERS
from babeldraw.train.loop import train
from babeldraw.train.presets import complete
from tests.test_toys import Stripes, StripesConfig, tokenizer_config

# ------------------------------------------------------------------ the network


@dataclasses.dataclass(frozen=True)
class FillerConfig:
    """Attributes: stack: of blocks in which every slot sees every other."""

    stack: TransformerConfig = TransformerConfig(
        blocks=1, heads=2, dim=16, hidden=32, compute=ComputeConfig(scan=False)
    )
    kind: str = "filler"


class FillerNetwork(nn.Module):
    config: FillerConfig
    condition: Condition
    codes: Codes

    def setup(self):
        dim = self.config.stack.dim
        self.prefix = self.condition.prefix(dim)
        # One more row than codes: what is masked.
        self.embed = CodeEmbedding(self.codes, dim, more=1, axis=None)
        self.positions = GridPositions(self.codes.shape, dim)
        self.stack = make_stack(encoder_parts(self.config.stack), self.config.stack)
        self.norm = LayerNorm()
        self.head = Head(self.codes, dim)

    def __call__(self, condition, codes, known):
        """-log p of each code given those that are known, and whether it is the likeliest."""
        return self.head.nll(self.hidden(self.read(condition), codes, known), codes)

    def read(self, condition):
        return self.prefix(condition)

    def hidden(self, prefix, codes, known):
        numbers = self.codes.numbered(codes)
        seen = jnp.broadcast_to(known.reshape(known.shape + (1,) * (codes.ndim - 2)), codes.shape)
        x = self.embed.rows(jnp.where(seen, numbers, self.codes.entries)) + self.positions()[None]
        return self.norm(self.stack(jnp.concatenate([prefix, x], axis=1)))[:, -codes.shape[1] :]

    def factor(self, hidden, earlier):
        return self.head.logits(hidden, earlier)


@dataclasses.dataclass(frozen=True)
class Filler(Generator):
    config: FillerConfig
    condition: Condition
    codes: Codes

    def _call(self, method, params, *inputs):
        network = FillerNetwork(self.config, self.condition, self.codes)
        return network.apply({"params": params}, *inputs, method=method)

    def init(self, key):
        network = FillerNetwork(self.config, self.condition, self.codes)
        codes = jnp.zeros((1, *self.codes.each), jnp.int32)
        known = jnp.zeros((1, self.codes.length), bool)
        return network.init(key, example(self.condition, 1), codes, known)["params"]

    def for_decoding(self, params):
        return unstack(params)

    def masked_nll(self, params, condition, codes, known):
        return self._call("__call__", params, condition, codes, known)

    def read(self, params, condition):
        return self._call("read", params, condition)

    def hidden(self, params, context, codes, known):
        return self._call("hidden", params, context, codes, known)

    def factor(self, params, hidden, earlier):
        return self._call("factor", params, hidden, earlier)

    @property
    def stacks(self):
        return {"stack": self.config.stack}

    def flops(self):
        return {"stack": (1, "not counted")}


# ------------------------------------------------------------------ the prediction


@flax.struct.dataclass
class FillSettings:
    temperature: jax.Array
    guidance: jax.Array


@dataclasses.dataclass(frozen=True)
class FillSampling:
    temperature: float = 1.0
    guidance: float = 1.0

    @property
    def guided(self):
        return self.guidance != 1

    def traced(self):
        return FillSettings(jnp.float32(self.temperature), jnp.float32(self.guidance))


@dataclasses.dataclass(frozen=True)
class Fill(Prediction):
    """All masked codes at once, of which the surest half stays, a few times."""

    rounds: int = 2
    kind: str = "fill"
    needs = ("masked_nll", "hidden", "factor")
    sampling = FillSampling

    def __post_init__(self):
        require(self.rounds >= 1, f"config.prediction.rounds is {self.rounds}; at least 1")

    def loss(self, generator, params, condition, codes, keys, step):
        known = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, codes.shape[1:2]))(keys)
        nll, right = generator.masked_nll(params, condition, codes, known)
        counted = ~known
        loss = jnp.mean(nll, where=counted)
        return loss, {"loss": loss, "accuracy": jnp.mean(right, where=counted)}

    def score(self, generator, params, condition, codes):
        nothing = jnp.zeros(codes.shape[:2], bool)
        return jnp.mean(generator.masked_nll(params, condition, codes, nothing)[0], axis=-1)

    def draw(self, generator, params, condition, keys, settings, given=None, guided=True):
        batch, what = keys.shape[0], generator.codes
        rows = condition
        if guided:
            nothing = generator.condition.nothing(condition)
            rows = jax.tree.map(lambda *both: jnp.concatenate(both), condition, nothing)
        context = generator.read(params, rows)
        context = jnp.repeat(context, batch * (1 + guided) // context.shape[0], axis=0)
        codes = jnp.zeros((batch, *what.each), jnp.int32)
        known = jnp.zeros((batch, what.length), bool)
        if given is not None:
            codes, known = jnp.asarray(given.codes), jnp.asarray(given.kept)
        for number in range(self.rounds):
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            drawn, sure = self._round(
                generator, params, context, codes, known, own, settings, guided
            )
            # In the last round all stay.
            half = jnp.median(jnp.where(known, jnp.inf, sure), axis=1, keepdims=True)
            stays = ~known if number == self.rounds - 1 else ~known & (sure >= half)
            wide = jnp.broadcast_to(
                stays.reshape(stays.shape + (1,) * (codes.ndim - 2)), codes.shape
            )
            codes, known = jnp.where(wide, drawn, codes), known | stays
        return codes

    def _round(self, generator, params, context, codes, known, keys, settings, guided):
        twice = (lambda a: jnp.concatenate([a, a])) if guided else (lambda a: a)
        hidden = generator.hidden(params, context, twice(codes), twice(known))
        factors, sure = [], 0.0
        for number in range(len(generator.codes.vocab)):
            earlier = jnp.stack(factors, axis=-1) if factors else None
            logits = generator.factor(params, hidden, None if earlier is None else twice(earlier))
            if guided:
                logits = guide(*jnp.split(logits, 2), settings.guidance)
            logits = logits / jnp.maximum(settings.temperature, 1e-6)
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            new = jax.vmap(jax.random.categorical)(own, logits).astype(jnp.int32)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), new[..., None], axis=-1)
            factors, sure = [*factors, new], sure + picked[..., 0]
        whole = factors[0] if len(factors) == 1 else jnp.stack(factors, axis=-1)
        return whole, sure

    def step(self, generator, params, condition, samples, settings):
        rows = jax.tree.leaves(condition)[0].shape[0] * samples
        codes = jax.ShapeDtypeStruct((rows, *generator.codes.each), jnp.int32)
        known = jax.ShapeDtypeStruct((rows, generator.codes.length), jnp.bool_)
        context = jax.eval_shape(generator.read, params, condition)
        context = jax.ShapeDtypeStruct((rows, *context.shape[1:]), context.dtype)

        def step(params, context, codes, known):
            hidden = generator.hidden(params, context, codes, known)
            return generator.factor(params, hidden, None)

        return step, (context, codes, known), self.rounds


# ------------------------------------------------------------------ through every door


@pytest.fixture(autouse=True)
def tables(monkeypatch):
    monkeypatch.setitem(TOKENIZERS, "stripes", (StripesConfig, Stripes))
    monkeypatch.setitem(NETWORKS, "filler", (FillerConfig, Filler))
    monkeypatch.setitem(PREDICTIONS, "fill", (Fill,))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a trained tokenizer of two factors per code."""
    folder = tmp_path_factory.mktemp("toy") / "tokenizer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TOKENIZERS, "stripes", (StripesConfig, Stripes))
        train(tokenizer_config(), str(folder))
    return folder


CONDITIONS = {
    "text": {"kind": "text", "length": 12, "vocab_size": 200, "dropout": 0.2},
    "class": {"kind": "class", "num_classes": len(shapes.PAIRS), "dropout": 0.2},
    "nothing": {"kind": "nothing"},
    "several": {
        "kind": "several",
        "parts": {
            "words": {"kind": "text", "length": 12, "vocab_size": 200},
            "kind": {"kind": "class", "num_classes": len(shapes.PAIRS)},
        },
    },
}
WORDS = {
    "text": ["--prompt=a small red circle"],
    "class": ["--class=3"],
    "nothing": [],
    "several": ["--prompt=a small red circle", "--class=3"],
}


def config_of(condition, tokenizer, steps=4, **more) -> ConfigDict:
    return complete(
        {
            "objective": "generator",
            "train": {"steps": steps, "batch_size": 8, "checkpoint_every": 2, "log_every": 2},
            "data": {"source": "shape_pairs", "num_examples": 64},
            "tokenizer": {"kind": "stripes"},
            "tokenizer_run": str(tokenizer),
            "condition": CONDITIONS[condition],
            "model": {"kind": "filler"},
            "prediction": {"kind": "fill"},
            "optimizer": {
                "name": "adamw",
                "schedule": {"kind": "constant", "peak": 0.01, "warmup_steps": 0},
            },
            "evaluators": {
                "validation_loss": {"num_examples": 8, "batch_size": 8},
                "samples": {"num": 2, "each": 2},
            },
            **more,
        }
    )


QUICK = ("text",)


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONDITIONS
    ]
)
def condition(request):
    return request.param


# Two runs, one of them in two parts, and what is asked of them.
@pytest.mark.budget(20)
def test_it_learns_goes_on_draws_and_is_judged(condition, tokenizer, cli, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    figures = train(config_of(condition, tokenizer, 4), str(whole))
    train(config_of(condition, tokenizer, 2), str(parts))
    again = train(config_of(condition, tokenizer, 4), str(parts))
    del figures["seconds"], again["seconds"]
    assert figures == again and figures["validation/loss"] > 0
    assert [*(whole / "samples").glob("samples_grid_*.png")]

    words = [f"--workdir={whole}", *WORDS[condition], "--num=2"]
    guidance = [] if condition == "nothing" else ["--guidance=2"]
    status, _, said = cli("sample", *words, *guidance, f"--out={tmp_path / 'drawn'}")
    assert status == 0, said
    lines = (tmp_path / "drawn" / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "top_k" not in json.loads(lines[0])
    status, _, said = cli("sample", *words, "--top_k=3", f"--out={tmp_path / 'other'}")
    assert status == 2 and "--top_k is no setting of fill, by which the run draws" in said

    sampler = Sampler.from_run(str(whole))
    image = shapes.pair_example(0, "test", 32, 0)[0]
    canvas = sampler.canvas(image, count=2)
    said = {"text": ["a red ring"], "class": ["3"]}
    said = {
        kind: words for kind, words in said.items() if kind == condition or condition == "several"
    }
    asked = sampler.condition.asked_by(said, sampler.lexicon)
    drawn = [*sampler.sample(asked, num=3, canvas=canvas)]
    for picture in drawn:
        assert picture.tokens.shape == (4, 2)
        np.testing.assert_array_equal(picture.tokens[:2], canvas.tokens[:2])
    assert len({picture.tokens.tobytes() for picture in drawn}) > 1

    status, printed, told = cli("evaluate", f"--workdir={whole}", "--evaluators=validation_loss")
    assert status == 0, told
    assert json.loads(printed)["validation/loss"] == pytest.approx(figures["validation/loss"])


@pytest.mark.slow
@pytest.mark.budget(12)
def test_it_is_given_away_and_taken(tokenizer, cli, tmp_path):
    train(config_of("class", tokenizer), str(tmp_path / "run"))
    given = [f"--folder={tmp_path / 'files'}", "--kind=run"]
    assert cli("export", f"--workdir={tmp_path / 'run'}", *given)[0] == 0
    assert cli("import", f"--workdir={tmp_path / 'taken'}", *given)[0] == 0
    drawn = [
        next(Sampler.from_run(str(tmp_path / name)).sample(["3"])).image
        for name in ("run", "taken")
    ]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.slow
@pytest.mark.budget(12)
def test_it_learns_from_stored_codes(tokenizer, cli, tmp_path):
    words = [f"--workdir={tokenizer}", "--source=shape_pairs", "--split=train", "--num=64"]
    words += ["--batch_size=16", "--level=half"]
    assert cli("tokenize", *words, f"--out={tmp_path / 'codes'}")[0] == 0
    data = {"source": "tokens", "path": str(tmp_path / "codes"), "split": "all"}
    evaluators = {"validation_loss": None, "samples": {"num": 1}}
    more = {"data": data, "evaluators": evaluators}
    train(config_of("class", tokenizer, level="half", **more), str(tmp_path / "run"))
    assert (tmp_path / "run" / "samples").exists()
    picture = next(Sampler.from_run(str(tmp_path / "run")).sample(["3"]))
    # Half of the tokenizer's pictures, in half of its codes.
    assert picture.tokens.shape == (2, 2) and picture.image.shape == (16, 32, 3)
    with pytest.raises(UserError, match="holds tokens of the tokenizer .* and config.tokenizer_r"):
        train(config_of("class", tokenizer, **more), str(tmp_path / "other"))


def test_drawing_compiles_for_a_tpu(tokenizer):
    from babeldraw.commands.compile_decode import compile_decode
    from babeldraw.train.experiment import parse

    report, _ = compile_decode(parse(config_of("text", tokenizer)), "v5e:1x1", 2)
    # Each of the two rounds reads the network once.
    assert report.tokens == 2 and 0 < report.floor_seconds < 1


@pytest.mark.parametrize(
    ("section", "value", "line"),
    [
        (
            "prediction",
            {"kind": "next_token"},
            "config.prediction.kind is 'next_token' and config.model.kind=filler has no nll and no",
        ),
        ("sampling", {"top_k": 3}, "config.sampling.top_k is not a field; the fields are guidance"),
        (
            "sampling",
            {"guidance": 2.0},
            "config.sampling.guidance is 2.0 and config.condition",
        ),
        ("prediction", {"kind": "fill", "rounds": 0}, "config.prediction.rounds is 0; at least 1"),
    ],
)
def test_what_does_not_go_together_is_told(tokenizer, section, value, line):
    with pytest.raises(UserError) as told:
        config_of("nothing", tokenizer, **{section: value})
    assert line in str(told.value)
