"""`babeldraw tokenize`, the source that reads what it writes, and the way back to pictures."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from babeldraw.commands import tokenize
from babeldraw.data import shapes
from babeldraw.data.folder import FolderSource
from babeldraw.data.image import save_png, to_uint8
from babeldraw.data.splits import TEST_EVERY, split_position
from babeldraw.data.tokens import MANIFEST, TokenSource
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder

NUM = 50


class Killed(BaseException):
    """What no handler of errors catches, as a kill."""


@pytest.fixture(scope="session")
def words(tokenizer_run):
    """The words of the command, but for --out."""
    words = ["--source=shapes", "--split=train", f"--num={NUM}", "--shard_size=20"]
    return ["tokenize", f"--workdir={tokenizer_run}", *words]


@pytest.fixture
def stored(cli, words, tmp_path):
    words = [*words, f"--out={tmp_path / 'tokens'}"]
    assert cli(*words)[0] == 0
    return tmp_path / "tokens", words


def content(folder):
    """Name to bytes of every file that is not hidden."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: path.read_bytes() for path in files}


# ------------------------------------------------------------------ pictures to tokens


def test_the_stored_tokens_are_those_of_the_pictures(stored, tokenizer_run):
    folder, _ = stored
    source, run = TokenSource(folder, "all"), TokenizerRun.open(str(tokenizer_run))
    assert len(source) == NUM and source.tokenizer == run.identity
    for index in (0, 19, 20, NUM - 1):
        image, caption = shapes.example(index, "train", run.image_size[0], 0)
        record = source[index]
        assert record.caption == caption
        np.testing.assert_array_equal(record.tokens, np.asarray(run.encode(image[None]))[0])


def test_the_manifest_says_what_there_is(stored, tokenizer_run):
    folder, _ = stored
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["tokenizer"] == TokenizerRun.open(str(tokenizer_run)).identity
    assert manifest["weights"] == "params"
    assert (manifest["vocab"], manifest["channels"], manifest["shape"]) == ([64], 0, [4, 4])
    assert (manifest["count"], manifest["bad"], manifest["complete"]) == (NUM, 0, True)
    assert [entry["count"] for entry in manifest["shards"]] == [20, 20, 10]
    for entry in manifest["shards"]:
        assert (folder / entry["file"]).stat().st_size == entry["bytes"]


def test_classes_keep_their_names(cli, tokenizer_run, tmp_path):
    for number, name in enumerate(("cow", "bee", "cow", "ant")):
        (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
        picture = shapes.example(number, "train", 32, 0)[0]
        save_png(tmp_path / "pictures" / name / f"{number}.png", picture)
    words = [f"--workdir={tokenizer_run}", f"--path={tmp_path / 'pictures'}"]
    assert cli("tokenize", *words, f"--out={tmp_path / 'tokens'}")[0] == 0
    source = TokenSource(tmp_path / "tokens", "all")
    assert source.classes == ("ant", "bee", "cow")
    assert [source[index].label for index in range(4)] == [0, 1, 2, 2]
    manifest = json.loads((tmp_path / "tokens" / MANIFEST).read_text())
    (tmp_path / "tokens" / MANIFEST).write_text(json.dumps(manifest | {"classes": ["ant", "cow"]}))
    status, _, said = cli("tokenize", *words, f"--out={tmp_path / 'tokens'}")
    assert status == 2 and "holds tokens of 2 classes and the data have 3" in said
    # Folders that are older tell numbers.
    file = tmp_path / "tokens" / MANIFEST
    manifest = json.loads(file.read_text())
    del manifest["classes"]
    file.write_text(json.dumps(manifest))
    assert TokenSource(tmp_path / "tokens", "all").classes == ("0", "1", "2")


@pytest.mark.slow
def test_ten_views_are_corners_and_centre_at_a_larger_size(cli, words, tokenizer_run, tmp_path):
    out, run = tmp_path / "views", TokenizerRun.open(str(tokenizer_run))
    words = [*words, f"--out={out}", "--num=3", "--views=10", "--batch_size=7"]
    status, _, said = cli(*words)
    assert status == 0, said
    source, side = TokenSource(out, "all"), run.image_size[0]
    frame = int(1.1 * side)
    room = frame - side
    places = [(room // 2, room // 2), (0, 0), (0, room), (room, 0), (room, room)]
    for index in range(3):
        picture = shapes.example(index, "train", frame, 0)[0]
        views = np.stack([picture[y : y + side, x : x + side] for y, x in places])
        views = np.concatenate([views, views[:, :, ::-1]])
        record = source[index]
        np.testing.assert_array_equal(record.views, np.asarray(run.encode(views)))
        np.testing.assert_array_equal(record.tokens, record.views[0])
    before = content(out)
    assert cli(*words)[0] == 0 and content(out) == before
    status, _, said = cli(*[word for word in words if word != "--views=10"])
    assert status == 2 and "holds tokens of views 10, not 1; give another --out" in said


def test_views_that_there_are_not_are_one_line(cli, words, tokenizer_run, tmp_path):
    for number in (0, 2, -10):
        status, _, said = cli(*words, f"--out={tmp_path / 'none'}", f"--views={number}")
        assert status == 2 and said.count("\n") == 1 and f"--views is {number}; 1 or 10" in said
    side = TokenizerRun.open(str(tokenizer_run)).image_size[0]
    save_png(tmp_path / "small" / "a.png", np.zeros((side, side, 3), np.uint8))
    words = ["tokenize", f"--workdir={tokenizer_run}", f"--path={tmp_path / 'small'}"]
    status, _, said = cli(*words, f"--out={tmp_path / 'none'}", "--views=10")
    line = [line for line in said.splitlines() if line.startswith("babeldraw: error")]
    wider = int(1.1 * side)
    assert status == 2 and len(line) == 1
    assert f"of {side} x {side} is smaller than the {wider} x {wider} that 10 views" in line[0]
    status, _, said = cli(*words, "--decode", f"--out={tmp_path / 'none'}", "--views=10")
    assert status == 2 and "--views does not go with --decode" in said


def test_train_and_test_share_nothing_and_leave_nothing_out(stored):
    train, test = (TokenSource(stored[0], split) for split in ("train", "test"))
    assert len(test) == -(-NUM // TEST_EVERY)
    places = [split_position(i, "train") for i in range(len(train))]
    places += [split_position(i, "test") for i in range(len(test))]
    assert sorted(places) == list(range(NUM))


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", ["write_shard", "write_json"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_at_any_moment_loses_nothing(
    stored, cli, words, tmp_path, monkeypatch, name, call, before
):
    whole = content(stored[0])
    words, write, calls = [*words, f"--out={tmp_path / 'killed'}"], getattr(tokenize, name), []

    def stop(*args):
        calls.append(args)
        if len(calls) == call and before:
            raise Killed
        result = write(*args)
        if len(calls) == call:
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tokenize, name, stop)
        tokenize.run(tokenize_flags(words))
    if (tmp_path / "killed" / MANIFEST).exists():
        with pytest.raises(UserError, match="is not complete; run the same `babeldraw tokenize`"):
            TokenSource(tmp_path / "killed", "all")
    assert cli(*words)[0] == 0
    assert content(tmp_path / "killed") == whole


def tokenize_flags(words):
    from babeldraw.cli import _parse

    return _parse("tokenize", tokenize, words[1:])


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on(stored, cli, words, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "babeldraw.cli", *words, f"--out={out}", "--shard_size=2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not (out / "tokens-00003.npz").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for target in (out, tmp_path / "whole"):
        assert cli(*words, f"--out={target}", "--shard_size=2")[0] == 0
    assert content(out) == content(tmp_path / "whole")


def test_done_work_is_not_done_again(stored, cli, monkeypatch):
    folder, words = stored
    before = content(folder)
    monkeypatch.setattr(tokenize, "_encode", None)
    assert cli(*words)[0] == 0
    assert content(folder) == before


def test_other_work_in_the_same_folder_is_refused(stored, cli):
    _, words = stored
    status, _, error = cli(*words[:-1], "--num=30", words[-1])
    assert status == 2 and "give another --out" in str(error)


# ------------------------------------------------------------------ damage


def test_a_damaged_shard_is_refused_and_written_again(stored, cli):
    folder, words = stored
    shard, before = folder / "tokens-00001.npz", content(folder)
    whole = shard.read_bytes()
    # Cut short: seen at once. A byte turned: seen when the shard is read.
    shard.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="tokens-00001.npz is missing or damaged"):
        TokenSource(folder, "all")
    turned = bytearray(whole)
    turned[len(turned) // 2] ^= 1
    shard.write_bytes(bytes(turned))
    source = TokenSource(folder, "all")
    assert source[19].tokens.shape == (16,)
    with pytest.raises(UserError, match="tokens-00001.npz is missing or damaged; run the same"):
        source[20]
    shard.unlink()
    with pytest.raises(UserError, match="tokens-00001.npz is missing or damaged"):
        TokenSource(folder, "all")
    assert cli(*words)[0] == 0
    assert content(folder) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda manifest: manifest.pop("records"),
        lambda manifest: manifest.update(shards={}),
        lambda manifest: manifest["shards"][0].pop("sha256"),
        lambda manifest: manifest["shards"][0].update(file="../tokens-00000.npz"),
        lambda manifest: manifest["shards"][0].update(count="20"),
    ],
)
def test_a_manifest_that_is_none_is_refused(stored, spoil):
    folder, _ = stored
    manifest = json.loads((folder / MANIFEST).read_text())
    spoil(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="manifest.json is not a manifest of token shards"):
        TokenSource(folder, "all")


# ------------------------------------------------------------------ tokens to pictures


@pytest.fixture
def decoded(cli, stored, tokenizer_run, tmp_path):
    words = ["tokenize", "--decode", f"--workdir={tokenizer_run}", f"--path={stored[0]}"]
    words += [f"--out={tmp_path / 'pictures'}", "--num=11", "--batch_size=4"]
    status, _, said = cli(*words)
    assert status == 0, said
    return tmp_path / "pictures", words


@pytest.mark.slow
def test_decoded_pictures_are_the_tokenizer_s_with_their_captions(decoded, stored, tokenizer_run):
    run, tokens = TokenizerRun.open(str(tokenizer_run)), TokenSource(stored[0], "all")
    pictures = FolderSource(decoded[0], "all")
    assert len(pictures) == 11
    for index in (0, 3, 10):
        image = np.asarray(run.decode(tokens[index].tokens[None]))[0]
        np.testing.assert_allclose(pictures[index].image, to_uint8(image), atol=1)
        assert pictures[index].caption == tokens[index].caption
    original = shapes.example(0, "train", run.image_size[0], 0)[0]
    again = to_uint8(np.asarray(run.reconstruct(original[None])[0])[0])
    np.testing.assert_allclose(pictures[0].image, again, atol=1)


def test_decoding_goes_on_where_it_stopped(decoded, cli):
    folder, words = decoded
    before = content(folder)
    (folder / "00000002.png").unlink()
    (folder / "captions.jsonl").unlink()
    assert cli(*words)[0] == 0
    assert content(folder) == before


@pytest.mark.slow
def test_decoding_elsewhere_or_by_another_tokenizer_is_refused(decoded, cli, stored, tmp_path):
    def refused(*words):
        status, _, said = cli(*words)
        assert status == 2 and said.count("\n") == 1, said
        return said

    _, words = decoded
    assert "holds pictures of other tokens; give another --out" in refused(*words, "--num=12")
    assert "is not empty and holds no decoded.json" in refused(*words, f"--out={stored[0]}")
    assert "are tokens already; --decode" in refused(*stored[1], "--source=tokens")
    manifest = json.loads((stored[0] / MANIFEST).read_text())
    (stored[0] / MANIFEST).write_text(json.dumps(manifest | {"tokenizer": "0" * 16}))
    line = refused(*words, f"--out={tmp_path / 'other'}")
    assert "holds tokens of the tokenizer 0000000000000000 and --workdir=" in line
    assert line.strip().endswith("; name the run that made them")


# ------------------------------------------------------------------ stage 2 on stored tokens


def generator(runlocal, tokenizer_run, folder):
    config = runlocal("demo/text_to_image.py")
    with config.unlocked():
        config.data = {"source": "tokens", "path": str(folder)}
        config.evaluators.prompts = None
    config.tokenizer_run = str(tokenizer_run)
    config.train.steps = 2
    return config


# A whole run.
@pytest.mark.slow
@pytest.mark.budget(15)
def test_a_generator_learns_from_the_tokenizer_s_own_shards_alone(
    stored, tokenizer_run, runlocal, tmp_path
):
    from babeldraw.train.loop import train

    folder, workdir = stored[0], str(tmp_path / "run")
    config = generator(runlocal, tokenizer_run, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    foreign = json.dumps(manifest | {"tokenizer": "0" * 16})
    (folder / MANIFEST).write_text(foreign)
    line = "holds tokens of the tokenizer 0000000000000000 and config.tokenizer_run="
    with pytest.raises(UserError, match=line):
        train(config, workdir)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert train(config, workdir)["validation/loss"] > 0
    # Other shards have come into their place since: refused on going on as well.
    config.train.steps = 3
    (folder / MANIFEST).write_text(foreign)
    with pytest.raises(UserError, match=line):
        train(config, workdir)
    assert RunFolder.of(workdir).report_file.exists()
