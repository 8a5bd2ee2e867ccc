"""The cascade of CogView2: stages by hand, a picture alone and among others, what does not fit."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.data.image import decode, read_png_text, save_png
from babeldraw.data.text import Vocabulary
from babeldraw.drawing.cascade import open_cascade
from babeldraw.drawing.judging import open_judge
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.stages import by_kind
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.models.conditions import ClassCondition
from babeldraw.prediction.refinement import RefinementPrediction, RefinementSampling
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse
from tests.random_runs import vocabulary, write_generator

PROMPTS = ["a small red thing", "a large blue thing", ""]
# In the vocabulary's words.
STYLE = "{} small"


@pytest.fixture(scope="module")
def write(runlocal, tmp_path_factory):
    """`write("enlarger")`: a run of random weights on a hierarchy, of configs/emoji/enlarger.py.

    Random logits are steep: at a temperature of 1 all pictures would be one.
    """
    place = tmp_path_factory.mktemp("cascade")
    words = vocabulary(PROMPTS[:2], place)
    tokenizer = runlocal("emoji/hierarchy.py").tokenizer

    def make(name):
        config = runlocal(f"emoji/{name}.py").to_dict()
        config["sampling"]["temperature"] = 10.0
        config["tokenizer"] = tokenizer.to_dict()
        return write_generator(place / name, config, words)

    return make


@pytest.fixture(scope="module")
def coglm(write):
    return write("coglm")


@pytest.fixture(scope="module")
def stages(write):
    """Direct and iterative super-resolution."""
    return [write("enlarger"), write("refiner")]


@pytest.fixture(scope="module")
def small(coglm):
    return Sampler.from_run(coglm)


@pytest.fixture(scope="module")
def sampler(coglm, stages, small):
    cascade = open_cascade(coglm, small.drawer, stages)
    return dataclasses.replace(small, cascade=cascade)


# ------------------------------------------------------------------ what is drawn


def afresh(sampler):
    """The same with programs of its own."""
    stages = tuple(
        dataclasses.replace(stage, drawer=dataclasses.replace(stage.drawer))
        for stage in sampler.cascade.stages
    )
    return dataclasses.replace(sampler, cascade=dataclasses.replace(sampler.cascade, stages=stages))


def mixed(keys, text, codes, length, vocab):
    """What a stage draws in the next test: numbers in which all that it is given has a part."""
    drawn = jax.vmap(lambda key: jax.random.randint(key, (length,), 0, vocab))(keys)
    own = jnp.sum(text, axis=1, keepdims=True) + jnp.sum(codes, axis=1, keepdims=True)
    return (drawn + own) % vocab


@pytest.mark.slow
def test_the_small_codes_go_to_the_direct_run_and_its_codes_to_the_iterative_one(
    small, sampler, monkeypatch
):
    def draw(self, generator, params, condition, keys, settings, given=None, guided=True):
        del params, settings, guided
        text, codes = condition, None
        if self.begins:
            assert given is None
            text, codes = condition["text"], condition["codes"]
        size = generator.codes.length, generator.codes.vocab_size
        if given is None:
            return mixed(keys, text, codes, *size)
        found = mixed(keys, text, given.codes, *size)
        return jnp.where(given.again & ~given.kept, found, -1)

    monkeypatch.setattr(RefinementPrediction, "draw", draw)
    small, sampler = (dataclasses.replace(one, style=STYLE) for one in (small, afresh(sampler)))
    plain, large = (list(one.sample(PROMPTS, 1, 3)) for one in (small, sampler))
    codes, vocab = np.stack([one.tokens for one in plain]), sampler.cascade.last.generator.codes
    for number, stage in enumerate(sampler.cascade.stages, start=1):
        said = ["a small red thing small", "a large blue thing small", ""]
        text = stage.lexicon.vocabulary.encode(said, stage.condition.text_length)
        key = jax.random.fold_in(jax.random.key(3), (1 << 30) + 16 + number)
        codes = mixed(jnp.stack([key] * 3), text, codes, vocab.length, vocab.vocab_size)
    np.testing.assert_array_equal([one.tokens for one in large], codes)
    tokenizer = sampler.drawer.tokenizer.at("8x3")
    images = jax.jit(tokenizer.decode)(sampler.drawer.params["tokenizer"], codes)
    images = np.round(255 * np.asarray(images))
    np.testing.assert_allclose([one.image for one in large], images, atol=1)
    assert images.shape[1:3] == sampler.image_size == tokenizer.image_size
    assert [(one.prompt, one.seed) for one in large] == [(one.prompt, one.seed) for one in plain]
    assert {one.level for one in large} == {"8x3"}


@pytest.mark.slow
def test_a_picture_is_its_own_and_all_batches_are_one_program(small, sampler, monkeypatch):
    traced, draw = [], RefinementPrediction.draw

    def told(self, generator, params, condition, keys, *more, **others):
        traced.append((self.passes, keys.shape[0]))
        return draw(self, generator, params, condition, keys, *more, **others)

    monkeypatch.setattr(RefinementPrediction, "draw", told)
    sampler = afresh(sampler)
    together = list(sampler.sample(PROMPTS, 2, 7, batch_size=4))
    assert len(np.unique([one.tokens for one in together], axis=0)) == 6
    # Alone, as its batch is itself again and again.
    codes = list(small.sample(PROMPTS, 2, 7, batch_size=4))[3].tokens
    alone, _ = sampler.cascade.draw([together[3].asked], codes[None], np.array([8]), size=4)
    np.testing.assert_array_equal(alone[0], together[3].tokens)
    assert traced == [(1, 4), (6, 4)]


def test_clusters_of_the_first_run_serve_all(coglm, stages, small, sampler):
    labels = np.arange(small.drawer.generator.codes.vocab_size, dtype=np.int32) % 5
    first = dataclasses.replace(small.drawer, clusters=labels)
    (stage,) = open_cascade(coglm, first, stages[:1]).stages
    settings = RefinementSampling(top_ks="0", clusters=3)
    stage.drawer.check_sampling(settings)
    assert stage.drawer.clusters is labels
    with pytest.raises(UserError, match="clusters is 6 and the run's codes are in 5; take at most"):
        stage.drawer.check_sampling(dataclasses.replace(settings, clusters=6))
    with pytest.raises(UserError, match="clusters is 3 and the run's codes are in none; find them"):
        sampler.cascade.last.check_sampling(settings)


# ------------------------------------------------------------------ the command


@pytest.mark.slow
def test_the_command_keeps_the_best_small_pictures_and_names_all_stages(
    cli, coglm, stages, small, tmp_path
):
    words = [f"--workdir={coglm}", f"--super_resolution={','.join(stages)}", f"--judge={coglm}"]
    words += [f"--prompt={PROMPTS[0]}", "--num=4", "--keep=1", "--seed=5", f"--out={tmp_path}"]
    status, _, said = cli("sample", *words)
    assert status == 0, said
    (line,) = map(json.loads, (tmp_path / "manifest.jsonl").read_text().splitlines())
    (again,) = Sampler.from_run(coglm, stages=stages).sample(PROMPTS[:1], 1, line["seed"])
    plain = list(small.sample(PROMPTS[:1], 4, 5))
    scores = open_judge(coglm).score(
        np.stack([one.image for one in plain]), [one.asked for one in plain]
    )
    assert line["seed"] == 5 + np.argmax(scores) and line["rank"] == 0
    assert line["score"] == pytest.approx(scores.max(), abs=1e-4)
    assert line["level"] == "8x3" and line["step"] == 7
    image, text = decode(tmp_path / line["file"]), read_png_text(tmp_path / line["file"])
    np.testing.assert_allclose(image.astype(int), again.image.astype(int), atol=1)
    assert image.shape[:2] == tuple(3 * side for side in small.image_size)
    assert [one["run"] for one in line["stages"]] == stages == line["super_resolution"]
    assert [one["step"] for one in line["stages"]] == [7, 7]
    assert [one["top_ks"] for one in line["stages"]] == ["100", "40,40,40,20,20,10"]
    assert json.loads(text["stages"]) == line["stages"]


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, "makes larger what stands in codes of level 8, which no words say; draw with a run of"),
        (1, "draws codes again that others have drawn .* and begins none; draw with one that does"),
    ],
)
def test_a_stage_alone_is_refused(cli, stages, tmp_path, number, line):
    words = [f"--workdir={stages[number]}", "--prompt=a", f"--out={tmp_path / 'out'}"]
    status, _, said = cli("sample", *words)
    assert status == 2 and not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=line):
        raise UserError(said)


@pytest.mark.slow
def test_iterative_super_resolution_fills_a_hole_at_its_own_size(cli, stages, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (100, 110, 3), np.uint8)
    save_png(tmp_path / "a.png", picture)
    words = [f"--prompt={PROMPTS[0]}", f"--image={tmp_path / 'a.png'}", "--box=20,30,50,60"]
    out = tmp_path / "out"
    status, _, said = cli("sample", f"--workdir={stages[1]}", *words, f"--out={out}")
    assert status == 0, said
    (file,) = out.glob("0*.png")
    changed = np.any(decode(file) != picture, axis=-1)
    assert changed[30:60, 20:50].mean() > 0.9
    changed[30:60, 20:50] = False
    assert not changed.any()


# ------------------------------------------------------------------ what does not fit


def test_levels_that_do_not_follow_one_another_are_refused(coglm, small, stages):
    with pytest.raises(UserError, match="takes codes of level 8x3 and .*coglm draws those of lev"):
        open_cascade(coglm, small.drawer, stages[1:])


def test_a_run_that_makes_no_codes_of_codes_is_refused(coglm, small):
    with pytest.raises(UserError, match="coglm draws from a text and makes no codes of those bef"):
        open_cascade(coglm, small.drawer, [coglm])


@pytest.mark.slow
def test_another_tokenizer_is_refused(coglm, stages, small):
    other = jax.tree.map(lambda leaf: leaf + 1, small.drawer.params["tokenizer"])
    first = dataclasses.replace(small.drawer, params={**small.drawer.params, "tokenizer": other})
    with pytest.raises(UserError, match="was trained on codes of the tokenizer .* name runs of"):
        open_cascade(coglm, first, stages[:1])


def test_a_first_run_without_a_text_is_refused(coglm, stages):
    first = types.SimpleNamespace(
        clusters=None, generator=types.SimpleNamespace(condition=ClassCondition(3))
    )
    with pytest.raises(UserError, match="reads a text and the first run draws from a class; name"):
        open_cascade(coglm, first, stages[:1])


def test_pixels_before_codes_are_refused(stages, tmp_path):
    RunFolder.of(str(tmp_path)).write_config({"objective": "super_resolution"})
    assert by_kind([*stages, str(tmp_path)]) == (tuple(stages), (str(tmp_path),))
    with pytest.raises(UserError, match="refiner works on codes and .* before it on pictures"):
        by_kind([str(tmp_path), stages[1]])


def test_a_level_or_a_picture_to_go_on_from_is_refused(sampler):
    with pytest.raises(UserError, match="level is '8x3' and what follows takes codes of level 8;"):
        sampler.at("8x3")
    image = np.zeros((*sampler.drawer.tokenizer.image_size, 3), np.uint8)
    with pytest.raises(UserError, match="a picture to go on from has codes of the small size"):
        sampler.sample(PROMPTS, canvas=sampler.canvas(image, rows=2))


def test_a_text_that_a_stage_cannot_read_is_told_before_anything_is_drawn(sampler, tmp_path):
    vocabulary(["0123456789 0123"], tmp_path)
    words = Lexicon(Vocabulary(str(tmp_path / "text.model")), ())
    stages = [dataclasses.replace(one, lexicon=words) for one in sampler.cascade.stages]
    for place in range(2):
        mixed = [stages[n] if n == place else sampler.cascade.stages[n] for n in range(2)]
        cascade = dataclasses.replace(sampler.cascade, stages=tuple(mixed))
        with pytest.raises(UserError, match="most letters of the prompt 'a small red thing' are n"):
            dataclasses.replace(sampler, cascade=cascade).sample(PROMPTS)


def test_training_draws_no_pictures_with_what_draws_again(runlocal):
    config = runlocal("emoji/refiner.py").to_dict()
    config["evaluators"]["samples"] = {}
    with pytest.raises(UserError, match="samples draws from nothing and config.prediction.kind="):
        parse(config)
