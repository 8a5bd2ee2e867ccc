"""Layouts that do not fit: one line, exit status 2, before a file is written or a step compiled."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.train import loop

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENIZER = f"--config={CONFIGS}/demo/tokenizer.py:runlocal"
GENERATOR = f"--config={CONFIGS}/demo/text_to_image.py:runlocal"
FULL = ["model.encoder.compute.remat=full", "model.decoder.compute.remat=full"]
# Stacks of four blocks in four stages, by two data groups.
PIPELINE = [
    "mesh.rules=pipeline",
    "mesh.stage=4",
    "model.encoder.blocks=4",
    "model.decoder.blocks=4",
    *FULL,
]
UP = "image_decoder/stack/blocks/ffn/up/weight"


@pytest.fixture
def refused(cli, tmp_path, tokenizer_run, monkeypatch):
    """`refused(config, fields)`: the one line in which training says what is wrong."""

    def begun(*args):
        raise AssertionError(f"a run was begun with {args}")

    # What writes and compiles first: the vocabulary, then the initial weights.
    monkeypatch.setattr(loop, "resolve", begun)

    def run(config, fields):
        words = [f"--config.{field}" for field in fields]
        if config is GENERATOR:
            words.append(f"--config.tokenizer_run={tokenizer_run}")
        status, printed, said = cli("train", config, f"--workdir={tmp_path / 'run'}", *words)
        assert (status, printed) == (2, ""), said
        assert not (tmp_path / "run").exists()
        (line,) = said.splitlines()
        return line.removeprefix("babeldraw: error: ")

    return run


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        # Stages and microbatches.
        (
            [*PIPELINE, "model.encoder.blocks=6"],
            "config.model.encoder.blocks is 6, which config.mesh.stage=4 does not divide; choose a "
            "number of stages that divides every stack",
        ),
        (
            [*PIPELINE, "mesh.microbatches=8", "train.batch_size=24"],
            "config.train.batch_size is 24, which 2 data groups x 8 microbatches do not divide; "
            "choose a multiple of 16",
        ),
        (
            [*PIPELINE, "mesh.microbatches=6"],
            "config.mesh.microbatches is 6, which config.mesh.stage=4 does not divide; choose a "
            "multiple of 4",
        ),
        (
            ["mesh.microbatches=8"],
            "config.mesh.microbatches is 8 and config.mesh.rules=data_parallel is no pipeline; set "
            "it to 0 or take rules=pipeline",
        ),
        (
            [*PIPELINE, "model.decoder.compute.remat=dots"],
            "config.model.decoder.compute.remat is 'dots'; a pipelined stack keeps only the input "
            "of each block, so 'full' is needed",
        ),
        # A mesh that is not there.
        (
            [*PIPELINE, "mesh.stage=16"],
            "config.mesh needs data 1 x stage 16 x model 1 = 16 devices but there are 8; choose "
            "sizes whose product is 8",
        ),
        (
            ["mesh.data=4", "mesh.model=4", "mesh.rules=in_layer"],
            "config.mesh needs data 4 x stage 1 x model 4 = 16 devices but there are 8; choose "
            "sizes whose product is 8",
        ),
        # What the model axis splits.
        (
            ["mesh.model=4", "mesh.rules=in_layer"],
            "config.model.encoder.heads is 2, which config.mesh.model=4 does not divide; choose a "
            "model axis that divides it",
        ),
        (
            ["mesh.model=2", "mesh.rules=in_layer", "model.decoder.hidden=63"],
            "config.model.decoder.hidden is 63, which config.mesh.model=2 does not divide; choose "
            "a model axis that divides it",
        ),
        (
            ["mesh.model=2"],
            "config.mesh.model is 2 and config.mesh.rules=data_parallel splits nothing over "
            "`model`; set model to 1 or take in_layer, in_layer_serving, fsdp or pipeline",
        ),
        # The batch.
        (
            ["train.batch_size=12"],
            "config.train.batch_size is 12, which 8 devices do not divide; choose a multiple of 8",
        ),
        (
            ["train.batch_size=16", "train.accumulation=3"],
            "config.train.batch_size is 16, which 8 devices x config.train.accumulation=3 do not "
            "divide; choose a multiple of 24",
        ),
        (
            [*PIPELINE, "train.batch_size=16", "train.accumulation=4"],
            "config.train.batch_size is 16, which 2 data groups x 4 microbatches x "
            "config.train.accumulation=4 do not divide; choose a multiple of 32",
        ),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_sizes_that_do_not_divide(refused, fields, line):
    assert refused(GENERATOR, fields) == line


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            "(('ffn/up', ('layers', 'heads', 'mlp')),)",
            "config.mesh.overrides for 'ffn/up': the logical axes ('layers', 'heads', 'mlp') of "
            "one array both lie on mesh axis model; put None in place of one",
        ),
        (
            "(('ffn/up', ('layers', 'embd', None)),)",
            "config.mesh.overrides for 'ffn/up' has the name embd; the logical axes of parameters "
            "are layers, embed, readout, heads, head_dim, mlp, vocab, code_dim, position, patch, "
            "or None",
        ),
        (
            "(('ffn/up', ('batch', 'embed', 'mlp')),)",
            "config.mesh.overrides for 'ffn/up' has the name batch; the logical axes of ",
        ),
        (
            "(('ffn/up', ('layers', None, None)), ('fnn/down', ('layers', None, None)))",
            "config.mesh.overrides has 'fnn/down', which finds no parameter (or only those that "
            "one before it finds); names look like image_decoder/embed/table",
        ),
        (
            "(('ffn/up', ('embed', 'mlp')),)",
            f"config.mesh.overrides has for 'ffn/up' the names ('embed', 'mlp') and {UP} has 3 "
            "dimensions, ('layers', 'embed', 'mlp'); one name for each is needed",
        ),
        (
            "(('ffn/up', (None, 'embed', 'mlp')),)",
            f"config.mesh.overrides has for 'ffn/up' the names (None, 'embed', 'mlp') and {UP} has "
            "('layers', 'embed', 'mlp'); 'layers' stays where it is",
        ),
        (
            "(('ffn(', ('layers', 'embed', 'mlp')),)",
            "config.mesh.overrides for 'ffn(': that is no regular expression: missing ), ",
        ),
        (
            "('ffn/up',)",
            "config.mesh.overrides[0] is 'ffn/up'; a value of type tuple[str, tuple[str | None, ",
        ),
    ],
    ids=lambda value: value if value.startswith("(") else "",
)
def test_overrides_that_do_not_fit(refused, overrides, line):
    fields = ["mesh.model=2", "mesh.rules=in_layer", f"mesh.overrides={overrides}"]
    assert refused(GENERATOR, fields).startswith(line)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            ["mesh.overrides=(('ffn/up', ('layers', None, 'mlp')),)"],
            "config.mesh.overrides is (('ffn/up', ('layers', None, 'mlp')),); a tokenizer's "
            "parameters follow the rules alone, so () is needed",
        ),
        (
            ["train.accumulation=2"],
            "config.train.accumulation is 2; a tokenizer, whose losses look at a batch as a whole, "
            "needs 1",
        ),
        (
            ["mesh.model=4", "mesh.rules=in_layer"],
            "config.tokenizer.encoder.heads is 2, which config.mesh.model=4 does not divide; ",
        ),
        (
            ["mesh.stage=2", "mesh.rules=pipeline"],
            "config.tokenizer.encoder.blocks is 1, which config.mesh.stage=2 does not divide; ",
        ),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_a_tokenizer_has_its_own(refused, fields, line):
    assert refused(TOKENIZER, fields).startswith(line)


def test_a_share_of_the_batch_that_leaves_devices_idle(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(PerceptualNetwork, "load", lambda *_: {})
    save_file({"weight": np.zeros(1)}, tmp_path / "vgg.safetensors")
    fields = ["train.batch_size=16", "loss.perceptual=0.1", "perceptual.every=4"]
    fields.append(f"perceptual.file={tmp_path / 'vgg.safetensors'}")
    assert refused(TOKENIZER, fields) == (
        "config.perceptual.every is 4, so that the loss looks at every so many of the 16 pictures "
        "of config.train.batch_size, over 8 devices; choose an `every` that divides 2"
    )


@pytest.mark.parametrize("field", ["file", "judge"])
def test_weights_of_a_figure_that_are_not_there(refused, field):
    name = f"config.perceptual.{field}=/no/weights.safetensors"
    assert refused(TOKENIZER, [name.removeprefix("config.")]) == f"{name} is not there"
