"""A tokenizer whose decoder draws beside the states of a text: trained, shown, built on, drawn."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from babeldraw.data.vocabularies import open_vocabulary
from babeldraw.drawing.drawer import _check_beside
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.text_states import TextStates
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.models.clip_condition import ClipCondition
from babeldraw.models.condition import Lexicon
from babeldraw.models.conditions import ClassCondition, NoCondition, TextCondition
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.several import SeveralConditions
from babeldraw.objectives.base import TrainState
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.titok import GuidanceConfig
from babeldraw.train.beside_text import check_read, check_same_encoder, check_states
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.starts import begun, starts_of
from tests.clip_file import SMALL, clip_file

WORDS = 16


def load(name):
    return load_config(f"configs/{name}", "pyproject.toml")


# ------------------------------------------------------------------ what a text is read by


def test_a_condition_of_clip_reads_states_embedding_and_what_an_empty_text_is(
    tmp_path, monkeypatch
):
    file = clip_file(tmp_path, monkeypatch)
    words = next(path for path in tmp_path.iterdir() if path.suffix == ".gz")
    vocabulary = open_vocabulary(words)
    condition = ClipCondition(9, encoder="clip_b32", weights=str(file), words=str(words))
    assert condition.with_vocabulary(vocabulary.size) is condition
    (start,) = starts_of(condition)
    assert (start.into, start.part) == ("frozen/text_encoder", "clip/text")
    init = condition.needs["text_encoder"].init
    abstract = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
    fresh = TrainState(jnp.int32(0), {}, None, {"text_encoder": empty}, {})
    frozen = begun(fresh, start, quiet=True).frozen
    table = load_file(file)["clip/text/words/table"]
    np.testing.assert_array_equal(frozen["text_encoder"]["words"]["table"], table)
    lexicon = Lexicon(vocabulary)
    rows = np.stack([condition.ask(text, lexicon).row for text in ("red", "")])
    # The two marks are the last of all tokens; "red" is one merge of two.
    assert rows[:, :4].tolist() == [[514, 513, 515, 0], [514, 515, 0, 0]]
    found = jax.jit(condition.encoded)(frozen, rows)
    assert found["states"].shape == (2, 9, SMALL.text.dim) and found["pooled"].shape == (2, 6)
    for name, array in condition.nothing(found).items():
        if name != "unsaid":
            np.testing.assert_allclose(array[0], found[name][1], atol=1e-6)
    assert jnp.abs(found["last"][0] - found["last"][1]).max() > 1e-3
    assert condition.states(found) is found["last"] and condition.states_shape == (9, 16)
    example = jax.tree.map(jnp.shape, condition.example(2))
    assert example == jax.tree.map(jnp.shape, found)


def test_the_untrained_tower_is_the_same_for_every_key():
    init = ClipCondition(encoder="untrained").needs["text_encoder"].init
    one, other = (jax.jit(init)(jax.random.key(seed)) for seed in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_text_may_be_one_of_several():
    words = ClipCondition(5, encoder="untrained")
    several = SeveralConditions({"label": ClassCondition(3), "words": words})
    assert (several.states_shape, several.weights_part) == ((5, 32), "clip/text")
    assert several.states(several.example(2)).shape == (2, 5, 32)
    assert SeveralConditions({"label": ClassCondition(3), "none": NoCondition()}).states_shape == ()
    with pytest.raises(UserError, match="are text and clip, which are ways to read one text"):
        SeveralConditions({"text": TextCondition(), "words": words})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"encoder": "clip_b33"}, "encoder is 'clip_b33'; "),
        ({"length": 78}, "config.condition.length is 78; 2 to 77 are possible"),
        ({"length": 1}, "config.condition.length is 1; 2 to 77 are possible"),
    ],
)
def test_a_condition_that_there_is_not_is_told(fields, line):
    with pytest.raises(UserError, match=line):
        ClipCondition(**fields)


def test_files_that_are_not_named_are_told():
    condition = ClipCondition()
    with pytest.raises(UserError, match="weights is empty; name what `babeldraw import --kind="):
        starts_of(condition)
    with pytest.raises(UserError, match="words is empty; name CLIP's merges.txt or bpe_simple"):
        _ = condition.vocabulary_file
    with pytest.raises(UserError, match="has 50 tokens and clip_l14_336_text knows 49408"):
        condition.with_vocabulary(50)


# ------------------------------------------------------------------ what goes with what


def tokenizer(text):
    config = parse(load("demo/titok.py")).tokenizer
    return make_tokenizer(dataclasses.replace(config, text=text))


@pytest.mark.parametrize(
    ("text", "condition", "line"),
    [
        (GuidanceConfig(), parse(load("demo/titok.py")).condition, "kind=nothing has none; take"),
        (GuidanceConfig(5, 7), FeaturesCondition(5, 8), r"are \(5, 8\); set config.tokenizer.text"),
        (None, ClipCondition(), "draws from codes alone; take kind=nothing, or a tokenizer with"),
    ],
)
def test_a_tokenizer_and_what_it_draws_beside_must_go_together(text, condition, line):
    with pytest.raises(UserError, match=line) as told:
        check_read(tokenizer(text), condition)
    assert "\n" not in str(told.value)


def test_a_generator_without_text_may_draw_through_a_decoder_without():
    check_states(tokenizer(None), ClipCondition())
    check_states(tokenizer(GuidanceConfig(5, 7)), FeaturesCondition(5, 7))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["configs/demo/titok.py:text", "condition.kind=nothing"],
            "config.tokenizer.text is set: the decoder draws beside states of a text, (32, 32), "
            "and config.condition.kind=nothing has none; take the kind clip or t5",
        ),
        (
            ["configs/demo/maskgit.py:text", "condition.kind=text"],
            "and config.condition.kind=text has none; take the kind clip or t5, or a tokenizer",
        ),
        (
            ["configs/demo/titok.py:text", "condition.length=20"],
            "are (20, 32); set config.tokenizer.text.words=20 and dim=32",
        ),
        (
            ["configs/titok.py:tatitok_bl32", "loss.perceptual=0"],
            "config.condition.weights is empty; name what `babeldraw import",
        ),
        (
            ["configs/demo/titok.py:text", "condition.kind=features", "condition.encoder=clip"]
            + ["condition.dim=32"],
            "config.condition.kind=features is read from states and pooled of a batch, which",
        ),
    ],
)
def test_a_text_that_is_not_there_is_one_line_of_the_command(cli, tmp_path, words, line):
    config, *fields = words
    fields = [f"--config.{field}" for field in fields]
    status, _, said = cli("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *fields)
    assert status == 2 and line in said and said.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def small():
    """An experiment with a decoder beside a text, its state, and batches that differ by texts."""
    config = load_config("configs/demo/titok.py", "pyproject.toml", "text,runlocal").to_dict()
    config["train"]["batch_size"] = 2
    experiment = parse(config)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, *experiment.image_size, 3), np.uint8)
    texts = [np.full((2, WORDS), number, np.int32) for number in (3, 4)]
    state = jax.jit(experiment.make_objective().init)(jax.random.key(0))
    return experiment, state, [{"image": image, "text": text} for text in texts]


def test_training_and_figures_read_the_pictures_own_texts(small):
    experiment, state, batches = small
    objective = experiment.make_objective()
    spec = objective.batch_spec()
    assert {name: leaf.shape for name, leaf in spec.items()}["text"] == (2, WORDS)
    assert set(state.frozen) == {"text_encoder"}
    losses = [jax.jit(objective.forward)(state, batch, jax.random.key(1)) for batch in batches]
    assert losses[0]["l2"] != losses[1]["l2"]
    reconstruct = jax.jit(objective.predict_fns()["reconstruct"])
    (one, codes), (other, same) = (reconstruct(state, batch) for batch in batches)
    np.testing.assert_array_equal(codes, same)
    assert np.abs(one - other).max() > 0


def test_a_share_of_the_pictures_is_not_told_its_text(small):
    experiment, state, batches = small
    condition = dataclasses.replace(experiment.condition, dropout=1.0)
    objective = dataclasses.replace(experiment, condition=condition).make_objective()
    losses = [jax.jit(objective.forward)(state, batch, jax.random.key(1)) for batch in batches]
    assert losses[0]["l2"] == losses[1]["l2"]


def test_another_encoder_than_the_tokenizer_s_is_refused(small, monkeypatch):
    experiment, state, _ = small
    own = TextStates(experiment.condition, state.frozen, None)
    run = TokenizerRun(tokenizer(GuidanceConfig(WORDS, 32)), {}, "", text=own)
    monkeypatch.setattr(TokenizerRun, "open", lambda workdir: run)
    asked = parse(load_config("configs/demo/maskgit.py", "pyproject.toml", "text,runlocal"))
    check_same_encoder(asked, state)
    moved = jax.tree.map(lambda leaf: leaf + 1, state.frozen)
    with pytest.raises(UserError, match="was trained beside a text that other weights read"):
        check_same_encoder(asked, state.replace(frozen=moved))
    # The same of a decoder in place of a run's own.
    _check_beside(asked.condition, state.frozen, run, "other")
    for condition, frozen in ((asked.condition, moved), (NoCondition(), state.frozen)):
        with pytest.raises(UserError, match=r"the tokenizer other draws beside states of a text"):
            _check_beside(condition, frozen, run, "other")


# ------------------------------------------------------------------ all of it


@pytest.mark.slow
def test_a_tokenizer_its_generator_and_its_commands_read_one_text(trained_once, cli, tmp_path):
    config = load_config("configs/demo/titok.py", "pyproject.toml", "text,runlocal")
    run = trained_once("titok_text", config)
    report = json.loads((run / "report.json").read_text())
    assert report["reconstruction/psnr_db"] > 0 and (run / "text.model").exists()

    shown = tmp_path / "shown"
    assert cli("reconstruct", f"--workdir={run}", "--num=2", f"--out={shown}")[0] == 0
    assert (shown / "00001_reconstruction.png").exists()

    config = load_config("configs/demo/maskgit.py", "pyproject.toml", "text,runlocal")
    config.tokenizer_run = str(run)
    made = trained_once("maskgit_text", config)
    # The decoder's words are the generator's.
    assert (made / "text.model").read_bytes() == (run / "text.model").read_bytes()

    sampler = Sampler.from_run(str(made))
    (picture,) = sampler.sample(["a small red ring"], seed=3)
    tokenizer = TokenizerRun.open(str(run))
    codes = picture.tokens[None]
    same, other = (
        np.asarray(tokenizer.decode(codes, [text]))[0] for text in ("a small red ring", "blue")
    )
    # Drawn by the states of its own prompt.
    assert np.abs(same * 255 - picture.image).max() <= 0.51
    assert np.abs(other - same).max() > 0
    with pytest.raises(UserError, match="and none are given"):
        tokenizer.decode(codes)

    tokens, again = tmp_path / "tokens", tmp_path / "again"
    words = ["tokenize", f"--workdir={run}", "--batch_size=2"]
    assert cli(*words, "--source=shapes", "--split=test", "--num=2", f"--out={tokens}")[0] == 0
    assert cli(*words, "--decode", f"--path={tokens}", f"--out={again}")[0] == 0
    assert len([*again.glob("*.png")]) == 2

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for file in again.glob("*.png"):
        (pictures / file.name).write_bytes(file.read_bytes())
    status, _, said = cli("reconstruct", f"--workdir={run}", f"--images={pictures}", "--out=no")
    assert status == 2 and "caption" in said and said.strip().count("\n") == 0
