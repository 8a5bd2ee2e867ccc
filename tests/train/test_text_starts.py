"""A generator begins from a text encoder: weights bit for bit, its words, and what does not fit."""

import dataclasses
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import flatten
from babeldraw.train.experiment import parse
from babeldraw.train.start import (
    _check_captions,
    check_resume,
    initial_state,
    open_train_source,
    resolve,
)
from babeldraw.train.starts import StartConfig, begun, check_fits

NAMES = "text_encoder/.*"
WORDS = [f"a {size} {colour} thing" for size in ("small", "large") for colour in ("red", "blue")]


def filled(abstract, seed):
    """Weights by a seed; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), abstract)


def abstract_state(experiment):
    return jax.eval_shape(experiment.make_objective().init, jax.random.key(0))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "text.model"
    train_vocabulary(WORDS, path, 60)
    return path.read_bytes()


@pytest.fixture(scope="module")
def pretrained(runlocal, words, tmp_path_factory):
    """The folder of a text encoder's run, and its parameters."""
    path = tmp_path_factory.mktemp("pretrained") / "run"
    (path.parent / "text.model").write_bytes(words)
    experiment = parse(runlocal("demo/text_encoder.py"))
    experiment = experiment.with_vocabulary(Vocabulary(path.parent / "text.model").size)
    params = filled(abstract_state(experiment).params, 1)
    write_run(str(path), to_dict(experiment), params, vocabulary=words)
    return path, params


@pytest.fixture
def generator(runlocal, pretrained, tokenizer_run):
    config = runlocal("demo/text_to_image.py")
    config.tokenizer_run = str(tokenizer_run)
    config.starts = ({"run": str(pretrained[0]), "names": NAMES},)
    return parse(config)


def test_it_begins_with_the_encoder_s_words_and_weights(generator, pretrained, tmp_path, capsys):
    path, params = pretrained
    folder = RunFolder.of(str(tmp_path / "run"))
    check_resume(folder, generator)
    found, vocabulary = resolve(generator, folder, open_train_source(generator))
    assert folder.vocabulary_file.read_bytes() == (path / "text.model").read_bytes()
    assert f"vocabulary {path}/text.model, with whose words it begins" in capsys.readouterr().err
    assert found.condition.vocab_size == vocabulary.size == Vocabulary(path / "text.model").size
    plain = jax.device_put(filled(abstract_state(found), 2))
    state = begun(plain, found.starts[0])
    ours, before, theirs = map(flatten, (state.params, plain.params, params))
    taken = [name for name in ours if re.fullmatch(NAMES, name)]
    for name, leaf in ours.items():
        expected = theirs if name in taken else before
        np.testing.assert_array_equal(leaf, expected[name])
    said = capsys.readouterr().err
    # Both sides: what is fresh here, and what there is of no use.
    assert f"params: {len(taken)} of {len(ours)} parameters begin as in {path}; fresh: " in said
    assert "; fresh: image_decoder/" in said and "; not taken: image_encoder/" in said
    assert sum(name.startswith("text_encoder/") for name in theirs) == len(taken)


def test_another_vocabulary_is_refused_before_anything_is_made(generator, pretrained, tmp_path):
    folder = RunFolder.of(str(tmp_path))
    train_vocabulary([*WORDS, "quite other words than these"], folder.vocabulary_file, 60)
    with pytest.raises(UserError, match="is another vocabulary than .*, with whose words") as told:
        check_resume(folder, generator)
    assert "\n" not in str(told.value)
    # A decoder knows no words.
    start = dataclasses.replace(generator.starts[0], names="image_decoder/.*")
    check_resume(folder, dataclasses.replace(generator, starts=(start,)))


@pytest.mark.slow
def test_another_width_is_told_before_anything_is_compiled(generator, words, tmp_path):
    wide = dataclasses.replace(generator.model.encoder, dim=48)
    model = dataclasses.replace(
        generator.model,
        encoder=wide,
        decoder=dataclasses.replace(generator.model.decoder, dim=48),
    )
    (tmp_path / "text.model").write_bytes(words)
    size = Vocabulary(tmp_path / "text.model").size
    other = dataclasses.replace(generator, model=model).with_vocabulary(size)
    line = r"has the shape \(\d+, 32\) and params/text_encoder/embed/table \(\d+, 48\); take the s"
    with pytest.raises(UserError, match=line) as told:
        check_fits(abstract_state(other), other.starts[0])
    assert "\n" not in str(told.value)
    # As the training loop asks it, which compiles nothing for that.
    with pytest.raises(UserError, match=line):
        initial_state(other, other.make_objective(), jax.random.key(0), None)


def test_captions_of_another_language_than_the_words_are_one_line(words, tmp_path):
    (tmp_path / "text.model").write_bytes(words)
    read = SimpleNamespace(text_length=9, text_in="condition.length")
    source = SimpleNamespace(name="mine", captions=lambda: iter(["красный круг 2", "a ring"]))
    with pytest.raises(UserError, match="most letters of the captions of mine are not in the"):
        _check_captions(read, source, Vocabulary(tmp_path / "text.model"))


def test_a_frozen_part_or_a_file_gives_no_words(generator, tmp_path):
    folder = RunFolder.of(str(tmp_path / "run"))
    starts = (StartConfig(file="weights.safetensors", names=NAMES),)
    found, _ = resolve(
        dataclasses.replace(generator, starts=starts), folder, open_train_source(generator)
    )
    assert folder.vocabulary_file.exists() and found.condition.vocab_size > 60


@pytest.mark.parametrize(
    ("section", "value", "line"),
    [
        ("loss", {"contrastive": 0.0}, "config.loss.contrastive = 1.0 and now it is 0.0"),
        ("text_data", {"source": "shapes"}, "config.text_data = None and now it is"),
    ],
)
def test_what_the_network_hangs_on_cannot_change_on_resuming(
    runlocal, pretrained, section, value, line
):
    config = runlocal("demo/text_encoder.py").to_dict()
    config[section] = {**(config[section] or {}), **value}
    with pytest.raises(UserError, match=re.escape(line)):
        check_resume(RunFolder.of(str(pretrained[0])), parse(config))
