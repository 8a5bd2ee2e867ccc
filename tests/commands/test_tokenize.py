"""`babeldraw tokenize`, and the source that reads what it writes."""

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.tokens import TEST_EVERY, TokenSource
from babeldraw.errors import UserError
from babeldraw.train.tokenizer_run import TokenizerRun

NUM = 50


@pytest.fixture
def stored(cli, tokenizer_run, tmp_path):
    words = ["--source=shapes", "--split=train", f"--num={NUM}", "--shard_size=20"]
    words = ["tokenize", f"--workdir={tokenizer_run}", *words, f"--out={tmp_path / 'tokens'}"]
    assert cli(*words)[0] == 0
    return tmp_path / "tokens", words


def test_the_stored_tokens_are_those_of_the_pictures(stored, tokenizer_run):
    folder, _ = stored
    source, run = TokenSource(folder, "all"), TokenizerRun.open(str(tokenizer_run))
    assert len(source) == NUM and source.tokenizer == run.identity
    for index in (0, 19, 20, NUM - 1):
        image, caption = shapes.example(index, "train", run.image_size[0], 0)
        record = source[index]
        assert record.caption == caption
        np.testing.assert_array_equal(record.tokens, np.asarray(run.encode(image[None]))[0])


def test_train_and_test_share_nothing_and_leave_nothing_out(stored):
    train, test = (TokenSource(stored[0], split) for split in ("train", "test"))
    assert len(test) == -(-NUM // TEST_EVERY)
    positions = [source._position(i) for source in (train, test) for i in range(len(source))]
    assert sorted(positions) == list(range(NUM))


def test_a_damaged_shard_is_refused_and_written_again(stored, cli):
    folder, words = stored
    shard = folder / "tokens-00001.npz"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="tokens-00001.npz is missing or damaged"):
        TokenSource(folder, "all")[25]
    assert cli(*words)[0] == 0
    assert TokenSource(folder, "all")[25].tokens.shape == (16,)


def test_other_work_in_the_same_folder_is_refused(stored, cli):
    _, words = stored
    status, _, error = cli(*words[:-1], "--num=30", words[-1])
    assert status == 2 and "give another --out" in str(error)
