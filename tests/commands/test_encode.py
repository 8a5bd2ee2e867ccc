"""`babeldraw encode`: states of captions beside tokens, read by training, and what does not fit."""

import numpy as np
import pytest
import sentencepiece

from babeldraw.commands import encode
from babeldraw.commands.encode import store
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.records import Record
from babeldraw.data.states import MANIFEST, file_of, read_features
from babeldraw.data.text import Vocabulary
from babeldraw.data.tokens import MANIFEST as TOKENS
from babeldraw.data.tokens import TokenSource, write_shard
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.t5 import FrozenT5, T5Config, config_of, identity
from babeldraw.models.t5_condition import T5Condition
from babeldraw.runs.folder import write_json
from babeldraw.runs.weights import flatten, read_params, write_weights

CONFIG = T5Config(blocks=1, heads=2, head_dim=4, dim=6, hidden=8, vocab_size=60)
CAPTIONS = ["a red ring", "a blue ring\nanother caption", "", "two rings", "a ring"]
LENGTH = 10


@pytest.fixture
def folder(tmp_path):
    """Two shards of tokens, T5's weights and its words; and the words of the command."""
    rng, entries = np.random.default_rng(0), []
    for number, part in enumerate((CAPTIONS[:3], CAPTIONS[3:])):
        records = [Record(np.zeros((0, 0, 3), np.uint8), text) for text in part]
        tokens = rng.integers(0, 9, (len(part), 4), np.int32)
        entries.append(write_shard(tmp_path / f"tokens-{number:05d}.npz", tokens, records))
        entries[-1]["bad"] = 0
    fields = {"tokenizer": "t", "name": "n", "shape": [4], "vocab": [9], "channels": 0, "views": 1}
    counts = {"records": 5, "shard_size": 3, "count": 5, "bad": 0, "complete": True}
    write_json(tmp_path / TOKENS, {**fields, **counts, "shards": entries})
    shapes = flatten(FrozenT5(CONFIG).shapes())
    arrays = {name: rng.normal(size=a.shape).astype(np.float32) for name, a in shapes.items()}
    write_weights(tmp_path / "t5.safetensors", arrays, {})
    with (tmp_path / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS * 5),
            model_writer=file,
            vocab_size=40,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    return tmp_path


def words(folder, **more):
    given = {
        "path": folder,
        "t5": folder / "t5.safetensors",
        "words": folder / "spiece.model",
        "length": LENGTH,
        "batch_size": 2,
        "compilation_cache": "off",
    }
    return ["encode", *(f"--{name}={value}" for name, value in (given | more).items())]


@pytest.mark.slow
def test_what_is_stored_is_what_t5_makes_of_first_captions(cli, folder):
    assert cli(*words(folder))[0] == 0
    params = read_params(str(folder / "t5.safetensors"), "--t5", FrozenT5(CONFIG).shapes())
    condition, lexicon = (
        T5Condition(LENGTH, encoder=CONFIG),
        Lexicon(Vocabulary(folder / "spiece.model")),
    )
    first = [caption.split("\n")[0] for caption in CAPTIONS]
    said = np.stack([condition.ask(text, lexicon).row for text in first])
    expected = condition.encoded({"text_encoder": params}, said)
    source = TokenSource(folder, "all")
    assert source.states.encoder == identity(params)
    for index in range(5):
        states = source[index].states
        assert states["states"].dtype == np.float16 and states["count"].dtype == np.int32
        np.testing.assert_allclose(states["states"], expected["states"][index], atol=4e-3)
        assert states["count"] == expected["count"][index]
    # What is there already is not made again; what is missing is.
    kept, gone = (folder / file_of("states", f"tokens-0000{n}.npz") for n in (0, 1))
    before, content = kept.stat().st_mtime_ns, gone.read_bytes()
    gone.unlink()
    assert cli(*words(folder))[0] == 0
    assert kept.stat().st_mtime_ns == before and gone.read_bytes() == content


def test_batches_hold_them_where_they_are(cli, folder):
    pytest.importorskip("tensorflow")
    assert cli(*words(folder))[0] == 0
    source = TokenSource(folder, "all")
    batches = TrainBatches(source, batch_size=4, image_size=(8, 8), seed=0)
    batch = next(batches)
    indices = batches.records(0)
    batches.close()
    for row, index in enumerate(indices):
        for name in ("states", "count"):
            np.testing.assert_array_equal(batch[name][row], source[index].states[name])
    condition = T5Condition(LENGTH, encoder=CONFIG, stored=True)
    for name, leaf in condition.spec(4).items():
        assert (batch[name].shape, batch[name].dtype) == (leaf.shape, leaf.dtype)
    (held,) = eval_batches(source, batch_size=8, image_size=(8, 8))
    assert held["states"].shape == (8, LENGTH, 6) and not held["states"][5:].any()
    # Who draws from features reads the same, and has no T5.
    features = FeaturesCondition(LENGTH, 6, encoder="t5")
    assert features.spec(4) == condition.spec(4) and features.in_data and not features.needs
    found = features.of_batch(batch)
    np.testing.assert_array_equal(found["states"], batch["states"].astype(np.float32))
    assert found["states"].dtype == np.float32


# ------------------------------------------------------------------ of others, and of prompts


def test_states_of_anybody_s_encoder_are_stored_beside_tokens(folder):
    def lengths(captions):
        """Of each caption its length in every state."""
        count = np.array([max(1, len(caption.split())) for caption in captions])
        return {"states": np.full((len(captions), 4, 3), count[:, None, None], float)} | {
            "count": count
        }

    assert store(folder, lengths, "words", length=4, dim=3, batch_size=2) == 5
    source = TokenSource(folder, "all")
    assert source.states.encoder == "words"
    counts = [3, 3, 1, 2, 2]
    assert [int(source[index].states["count"]) for index in range(5)] == counts
    assert [float(source[index].states["states"][3, 2]) for index in range(5)] == counts
    for file in (MANIFEST, encode.BEGUN, file_of("count", "tokens-00000.npz")):
        (folder / file).unlink()
    with pytest.raises(UserError, match=r"\(3, 4, 3\), \(3,\)\] are given; \(3, 5, 3\) is needed"):
        store(folder, lengths, "words", length=5, dim=3)


@pytest.mark.parametrize("wrong", [0, 5])
def test_counts_of_more_states_than_there_are_are_neither_stored_nor_read(folder, wrong):
    def counted(count):
        return lambda captions: {
            "states": np.ones((len(captions), 4, 3)),
            "count": np.full(len(captions), count),
        }

    with pytest.raises(UserError, match=f"a count of {wrong} states is given; 1 to 4 of a captio"):
        store(folder, counted(wrong), "words", length=4, dim=3)
    # Whoever writes files by another program is told when they are read.
    (folder / encode.BEGUN).unlink(missing_ok=True)
    store(folder, counted(2), "words", length=4, dim=3)
    for file in folder.glob("count-*.npy"):
        np.save(file, np.full_like(np.load(file), wrong))
    with pytest.raises(UserError, match=f"says that {wrong} to {wrong} states of a caption are o"):
        TokenSource(folder, "all")


def test_features_of_prompts_are_what_training_reads_of_the_same_texts(cli, folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red ring\ntwo rings\na ring\n")
    out = tmp_path / "made" / "features.npz"
    given = [word for word in words(folder) if not word.startswith("--path")]
    assert cli(*given, f"--prompts={tmp_path / 'prompts.txt'}", f"--out={out}")[0] == 0
    assert cli(*words(folder))[0] == 0
    source, rows = TokenSource(folder, "all"), read_features(str(out), "--features")
    features = FeaturesCondition(LENGTH, 6, encoder="t5")
    for row, index in zip(rows, (0, 3, 4), strict=True):
        asked, stored = features.ask(row, Lexicon()), source[index].states
        assert asked.name == asked.text == source[index].caption
        np.testing.assert_allclose(asked.row["states"], stored["states"], atol=4e-3)
        assert asked.row["count"] == stored["count"]


def test_a_file_of_features_that_is_none_is_one_line(cli, folder, tmp_path):
    torn, uneven = tmp_path / "torn.npz", tmp_path / "uneven.npz"
    torn.write_bytes(b"PK")
    np.savez(uneven, states=np.zeros((3, 4, 5)), count=np.zeros(2))
    for file, line in {torn: "is no readable .npz", uneven: "each needs a row for every"}.items():
        with pytest.raises(UserError, match=f"--features=x .*{line}") as told:
            read_features(str(file), "--features=x")
        assert "\n" not in str(told.value)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a ring\n")
    for more, line in {
        (f"--prompts={prompts}",): "--path and --prompts are both given",
        (f"--prompts={prompts}", "--path="): "--out is missing",
        (f"--prompts={prompts}", "--path=", "--out=x.txt"): "--out=x.txt is no .npz",
    }.items():
        status, _, said = cli(*words(folder), *more)
        assert status == 2 and line in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"t5": "nowhere.safetensors"}, "--t5=nowhere.safetensors is not there"),
        ({"length": 1}, "length is 1; at least 2"),
        ({"batch_size": 0}, "--batch_size is 0; at least 1"),
        ({"path": "nowhere"}, "holds no readable manifest.json"),
    ],
)
def test_a_mistake_is_one_line(cli, folder, more, line):
    status, _, said = cli(*words(folder, **more))
    assert status == 2 and line in said and said.count("\n") == 1


def test_states_of_another_encoder_are_not_mixed_with_these(cli, folder):
    assert cli(*words(folder))[0] == 0
    status, _, said = cli(*words(folder, length=8))
    assert status == 2 and f"{MANIFEST} is of" in said
    (folder / file_of("count", "tokens-00001.npz")).write_bytes(b"torn")
    with pytest.raises(Exception, match="count-00001.npy is missing or damaged; remove it and"):
        TokenSource(folder, "all")


def test_sizes_are_read_from_weights(folder):
    arrays = flatten(FrozenT5(CONFIG).shapes())
    assert config_of(arrays, "--t5=x") == CONFIG
    assert encode.BEGUN.startswith(".")
