"""A generator that draws from states of texts: trained by those beside tokens, drawn by a file."""

import dataclasses
import json

import numpy as np
import pytest

from babeldraw.commands.encode import store
from babeldraw.data.states import write_features
from babeldraw.data.tokens import TokenSource
from babeldraw.errors import UserError
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from babeldraw.train.random_batch import random_batch

LENGTH, DIM = 6, 8
FIELDS = {
    "condition.kind": "features",
    "condition.encoder": "t5",
    "condition.length": LENGTH,
    "condition.dim": DIM,
    "model.prefix": "zeros",
    "data.source": "tokens",
    "evaluators.samples": None,
    "evaluators.prompts": None,
}


def letters(texts):
    """States that tell texts apart: of each word its first letters, as bits."""
    states, count = np.zeros((len(texts), LENGTH, DIM)), np.zeros(len(texts), int)
    for row, text in enumerate(texts):
        said = text.encode().split()[:LENGTH] or [b"?"]
        count[row] = len(said)
        states[row, : len(said)] = [np.unpackbits(np.uint8([word[0]])) for word in said]
    return {"states": states, "count": count}


@dataclasses.dataclass
class Data:
    """What the check of a config looks at."""

    states: object = None
    name: str = "tokens:x"
    stored_levels: tuple[str, ...] = ()


@dataclasses.dataclass
class States:
    spec: dict


def test_what_data_do_not_hold_is_told_before_anything_is_compiled():
    config = load_config("configs/llamagen.py", "pyproject.toml", "b,features,runlocal").to_dict()
    config["data"] = {"source": "tokens", "path": "x"}
    experiment = parse(config)
    wanted = experiment.condition.spec(1)["states"].shape[1:]
    experiment.check_data(Data(States({"states": (wanted, np.float16)})))
    made = random_batch(experiment, experiment.make_objective().batch_spec())
    assert made["states"].dtype == np.float16 and made["states"].shape[1:] == wanted
    assert 1 <= made["count"].min() and made["count"].max() <= wanted[0]
    with pytest.raises(UserError, match="of kind=features, reads states that lie beside stored"):
        experiment.check_data(Data())
    line = r"has states of the shape \(9, 9\) beside its tokens and config.condition asks for \(120"
    with pytest.raises(UserError, match=line):
        experiment.check_data(Data(States({"states": ((9, 9), np.float16)})))
    config["evaluators"]["samples"] = {"num": 2}
    with pytest.raises(UserError, match="draws from features; leave out .*samples=None"):
        parse(config).check_data(Data(States({"states": (wanted, np.float16)})))


@pytest.mark.slow
def test_the_commands_store_train_and_draw(cli, tokenizer_run, tmp_path):
    tokens, run, drawn = (tmp_path / name for name in ("tokens", "run", "drawn"))
    of_shapes = ("--source=shapes", "--split=train", "--num=40", f"--out={tokens}")
    assert cli("tokenize", f"--workdir={tokenizer_run}", *of_shapes)[0] == 0
    store(tokens, letters, "letters", LENGTH, DIM)
    fields = FIELDS | {"tokenizer_run": tokenizer_run, "data.path": tokens, "train.steps": 2}
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    config = "--config=configs/demo/llama.py:runlocal"
    status, _, said = cli("train", config, f"--workdir={run}", *given)
    assert status == 0, said
    assert json.loads((run / "report.json").read_text())["validation/loss"] > 0

    texts = [TokenSource(tokens, "all")[0].caption.split("\n")[0], "zz yy", "a ring"]
    write_features(tmp_path / "features.npz", texts, letters(texts))
    ask = ["sample", f"--workdir={run}", f"--out={drawn}"]
    status, _, said = cli(*ask, f"--features={tmp_path / 'features.npz'}", "--seed=3")
    assert status == 0, said
    lines = [json.loads(line) for line in (drawn / "manifest.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == texts
    assert len([*drawn.glob("0000?_*.png")]) == 3
    status, _, said = cli(*ask, "--prompt=a ring")
    assert status == 2 and "a text is given and the run draws from features, of a file" in said
    np.savez(tmp_path / "wide.npz", states=np.zeros((1, LENGTH, DIM + 1)), count=np.ones(1, int))
    status, _, said = cli(*ask, f"--features={tmp_path / 'wide.npz'}")
    assert status == 2 and "features of the shapes" in said and said.strip().count("\n") == 0
