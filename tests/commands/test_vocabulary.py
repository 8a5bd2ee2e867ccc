"""Captions to a SentencePiece file."""

import shutil

import numpy as np
import pytest

from babeldraw.data.image import save_png
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.train.evaluation import TrainedRun

CAPTIONS = ["a red circle", "a blue square", "two red squares left of a ring", "ein grüner Kreis"]


def test_a_folder_s_captions_become_a_vocabulary(cli, tmp_path):
    for index, caption in enumerate(CAPTIONS):
        save_png(tmp_path / "pictures" / f"{index}.png", np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "pictures" / f"{index}.txt").write_text(caption, encoding="utf-8")
    out = tmp_path / "new" / "text.model"
    words = [f"--path={tmp_path / 'pictures'}", "--split=all", "--size=40", f"--out={out}"]
    status, printed, _ = cli("vocabulary", *words)
    vocabulary = Vocabulary(out)
    how = "byte_pair, normalization nmt_nfkc, other characters as one unknown piece"
    assert (status, printed) == (0, f"{out}: {vocabulary.size} pieces, {how}\n")
    assert vocabulary.size <= 40
    for caption, ids in zip(CAPTIONS, vocabulary.encode(CAPTIONS, 40), strict=True):
        assert vocabulary.decode(ids) == caption


@pytest.mark.slow
def test_shapes_have_few_words(cli, tmp_path):
    out = tmp_path / "text.model"
    status, *_ = cli("vocabulary", "--source=shapes", "--size=80", f"--out={out}")
    vocabulary = Vocabulary(out)
    assert status == 0 and vocabulary.size <= 80
    caption = "a small red circle above a large blue square on a gray background"
    assert vocabulary.decode(vocabulary.encode([caption], 80)[0]) == caption


def test_lines_of_a_file_and_a_config_s_data_become_one(cli, tmp_path):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "text.model"
    corpus.write_text("\n".join(CAPTIONS * 20), encoding="utf-8")
    how = ["--model_type=unigram", "--bytes=always", "--normalization=nfkc_cf", "--size=400"]
    status, printed, _ = cli(
        "vocabulary", "--source=texts", f"--path={corpus}", f"--out={out}", *how
    )
    assert status == 0
    assert printed.endswith("unigram, normalization nfkc_cf, other characters as bytes\n")
    config = "--config=configs/demo/text_to_image.py"
    fields = ["--config.data.num_examples=200", "--size=80", f"--out={out}"]
    assert cli("vocabulary", config, *fields)[0] == 0
    assert Vocabulary(out).unknown("a large blue ring") == ""


def test_an_empty_source_is_one_line(cli, tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    out = f"--out={tmp_path / 'text.model'}"
    status, _, said = cli("vocabulary", "--source=texts", f"--path={tmp_path / 'empty.txt'}", out)
    assert status == 2 and "holds no text" in said and said.count("\n") == 1
    save_png(tmp_path / "0.png", np.zeros((8, 8, 3), np.uint8))
    status, _, said = cli("vocabulary", f"--path={tmp_path}", out)
    assert status == 2 and "no captions" in said and not (tmp_path / "text.model").exists()


def test_a_size_without_room_says_what_is_needed(cli, tmp_path):
    corpus, out = tmp_path / "corpus.txt", tmp_path / "text.model"
    corpus.write_text("\n".join(CAPTIONS * 20), encoding="utf-8")
    words = ["vocabulary", "--source=texts", f"--path={corpus}", "--split=all", f"--out={out}"]
    # The characters, the mark of a space, and both special ids.
    need = len(set("".join(CAPTIONS)) - {" "}) + 1 + 2
    status, _, said = cli(*words, f"--size={need - 1}", "--bytes=never")
    assert status == 2 and f"characters alone take {need} pieces; ask for more than that" in said
    status, _, said = cli(*words, "--size=100", "--bytes=always")
    assert status == 2 and f"take {need + 256} pieces, 256 of them for bytes" in said
    status, _, said = cli(*words, "--size=0")
    assert status == 2 and "size is 0; more than 2 pieces are needed" in said
    assert "pieces (of 16000: the texts carry no more), byte_pair" in cli(*words)[1]


def test_what_would_not_be_read_or_be_lost_is_one_line(cli, tmp_path):
    config, out = "--config=configs/demo/text_to_image.py", f"--out={tmp_path / 'text.model'}"
    status, _, said = cli("vocabulary", config, f"--path={tmp_path}", out)
    assert status == 2 and "whose data are read: set --config.data.path" in said
    (tmp_path / "checkpoints").mkdir()
    status, _, said = cli("vocabulary", "--source=shapes", out)
    assert status == 2 and "lies in a run that is trained, whose vocabulary stays" in said


# ------------------------------------------------------------------ looking


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "text.model"
    train_vocabulary(CAPTIONS, path, 60)
    return path


def test_the_pieces_of_a_text_are_shown_with_their_ids_and_the_cut(cli, model):
    asked = ["--show=a  red circle 🦊", f"--model={model}", "--length=2"]
    status, printed, _ = cli("vocabulary", *asked)
    vocabulary = Vocabulary(model)
    first, read, *lines = printed.splitlines()
    pieces = vocabulary.pieces("a red circle 🦊")
    assert status == 0 and first.startswith(f"{vocabulary.size} pieces, byte_pair, normalization")
    assert read == "read as 'a red circle 🦊'"
    assert lines.pop(2) == f"cut here: the run reads 2 of {len(pieces)} pieces"
    assert lines.pop() == "without a piece: '🦊'"
    assert [line.split(None, 2) for line in lines] == [
        [str(place), str(number), piece] for place, (piece, number) in enumerate(pieces, 1)
    ]
    assert "no pieces: it draws without" in cli("vocabulary", "--show=", f"--model={model}")[1]


@pytest.mark.slow
def test_a_run_shows_where_it_cuts(cli, generator_run):
    length = TrainedRun.open(str(generator_run)).experiment.text_length
    asked = ["vocabulary", f"--workdir={generator_run}"]
    assert "cut here" not in cli(*asked, "--show=a red circle")[1]
    printed = cli(*asked, f"--show={'red ' * length * 2}")[1]
    assert f"cut here: the run reads {length} of " in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--show=a"], "--show asks the vocabulary of one of them"),
        (["--show=a", "--model=x", "--workdir=y"], "--show asks the vocabulary of one of them"),
        (["--show=a", "--workdir=TOKENIZER"], "is a run that reads no texts"),
        (["--show=a", "--model=nowhere"], "nowhere cannot be read"),
        (["--path=x"], "--out is missing"),
        (["--model=x"], "--model is of --show, which is missing"),
    ],
)
def test_what_cannot_be_shown_is_one_line(cli, words, line, tokenizer_run):
    status, _, said = cli(
        "vocabulary", *(w.replace("TOKENIZER", str(tokenizer_run)) for w in words)
    )
    assert status == 2 and line in said and said.count("\n") == 1


# ------------------------------------------------------------------ whose it is


@pytest.mark.parametrize("size", [60, None])
def test_a_run_with_another_vocabulary_draws_nothing(cli, generator_run, tmp_path, size):
    run, model = tmp_path / "run", tmp_path / "text.model"
    shutil.copytree(generator_run, run)
    own = Vocabulary(run / "text.model").size
    captions = [f"{word} shape number {n}" for n in range(40) for word in ("odd", "even", "prime")]
    # Of another size, or of the same with other pieces.
    train_vocabulary(captions, model, size or own)
    if size is None:
        assert Vocabulary(model).size == own
    (run / "text.model").write_bytes(model.read_bytes())
    for words in (["sample", "--prompt=a ring", f"--out={tmp_path / 'out'}"], ["evaluate"]):
        status, _, said = cli(*words, f"--workdir={run}")
        assert status == 2 and "text.model is another vocabulary than the one that the run" in said
