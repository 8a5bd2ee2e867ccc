"""What a config would train, without allocating it."""

import re
from pathlib import Path

import jax
import pytest

from babeldraw.commands import inspect_cost
from babeldraw.commands.inspect_cost import describe_memory, describe_work, operations
from babeldraw.estimate.chips import CHIPS
from babeldraw.train.experiment import parse
from babeldraw.train.start import whole_objective
from babeldraw.train.traced_memory import Held

CONFIGS = Path(__file__).parents[2] / "configs"


def numbers(printed, name):
    """The numbers of the line that begins with `name`."""
    (line,) = (line for line in printed.splitlines() if re.match(rf"{name} +[\d(]", line))
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]*\.?\d+", line)]


def test_the_parts_add_up(cli):
    status, printed, _ = cli("inspect", f"--config={CONFIGS}/demo/tokenizer.py")
    assert status == 0
    rows = re.findall(r"^trained/\S+ +([\d,]+) ", printed, re.MULTILINE)
    parameters, _ = numbers(printed, "parameters")
    assert sum(int(row.replace(",", "")) for row in rows) == parameters
    assert "largest [1024 vocab, 8 code_dim]" in printed


@pytest.mark.slow
def test_depth_tells_more_parts_apart(cli):
    words = ["inspect", f"--config={CONFIGS}/demo/text_to_image.py"]
    few, many = (cli(*words, f"--depth={depth}")[1] for depth in (1, 4))
    assert "trained/text_encoder " in few and "frozen/tokenizer " in few
    assert "trained/text_encoder/stack/blocks/" in many
    assert numbers(few, "parameters") == numbers(many, "parameters")


@pytest.mark.parametrize(
    ("moment", "most"),
    # float32 weights and the moment; Adafactor's factors, scales and small arrays are the rest.
    [("int8", 5.1), ("float32", 8.1)],
)
def test_the_largest_model_needs_no_memory_here(cli, moment, most):
    words = [f"--config={CONFIGS}/babeldraw/20b.py", f"--config.optimizer.moment_dtype={moment}"]
    _, printed, _ = cli("inspect", *words)
    parameters, _ = numbers(printed, "parameters")
    assert 20.4e9 < parameters < 20.8e9
    assert most - 0.1 < numbers(printed, "bytes per trained parameter")[0] < most


# ------------------------------------------------------------------ devices that need not exist


def of_devices(cli, config, devices, *words):
    """What is printed of one device, below what is printed without `--devices`."""
    status, printed, said = cli(
        "inspect", f"--config={CONFIGS}/{config}", *words, f"--devices={devices}"
    )
    assert status == 0, said
    return printed.split("\n\n")[1]


def on_one_device(printed, name):
    (number,) = re.findall(rf"^{name} +on one device +([\d,.]+) MiB$", printed, re.MULTILINE)
    return float(number.replace(",", ""))


@pytest.mark.slow
def test_the_20b_on_a_thousand_devices(cli):
    printed = of_devices(cli, "babeldraw/20b.py", 1024, "--depth=5")
    assert printed.startswith(
        "mesh data 64 x stage 16 x model 1 = 1,024 devices; rules pipeline, zero1"
    )
    # ZeRO-1 over all devices: a 1,024th of the width 4,096 rests on each.
    row = r"ffn/up +float32 \[64, 4096, 16384\] +-, data\+stage, - +\[64, 4, 16384\] +16\.0"
    assert re.search(row, printed)
    # Float32 weights: a 1,024th of four bytes for each of 20.5 billion.
    assert on_one_device(printed, "parameters") == pytest.approx(
        20.54e9 * 4 / 1024 / 2**20, rel=0.01
    )
    # 8,192 pictures of 256 x 256 x 3 bytes over all devices, and their text.
    assert on_one_device(printed, "one batch") == pytest.approx(8 * 3 * 2**16 / 2**20, rel=0.01)
    encoder, decoder = re.findall(r"^config\.model\..*", printed, re.MULTILINE)
    # Parti, section 3.2.2: four rounds in the decoder. Iterations are R * M + G - 1.
    assert encoder == (
        "config.model.encoder: 16 stages, rounds 1, 32 microbatches of 4 examples, 47 iterations, "
        "bubble 32%"
    )
    assert decoder.endswith("rounds 4, 32 microbatches of 4 examples, 143 iterations, bubble 10%")


@pytest.mark.slow
def test_the_3b_has_a_quarter_of_each_split_weight(cli):
    printed = of_devices(cli, "babeldraw/3b.py", 512, "--depth=5")
    assert printed.startswith("mesh data 128 x stage 1 x model 4 = 512 devices; rules in_layer\n")
    quarter = r"blocks/ffn/up +float32 \[36, 2048, 8192\] +-, -, model +\[36, 2048, 2048\] +576\.0"
    assert re.search(quarter, printed)
    assert "bubble" not in printed


@pytest.mark.slow
def test_one_device_holds_everything(cli):
    whole = cli("inspect", f"--config={CONFIGS}/demo/tokenizer.py")[1]
    printed = of_devices(cli, "demo/tokenizer.py", 1)
    for name in ("parameters", "optimizer state", "one batch"):
        assert on_one_device(printed, name) == numbers(whole, name)[1]


@pytest.mark.parametrize(
    ("devices", "words", "line"),
    [
        (-1, [], "--devices is -1; at least 1 is needed, or 0 for none"),
        (
            1000,
            [],
            "config.mesh needs data 62 x stage 16 x model 1 = 992 devices but there are 1000",
        ),
        (8, [], "config.mesh needs data 1 x stage 16 x model 1 = 16 devices but there are 8"),
        (
            1024,
            ["--config.model.encoder.blocks=24"],
            "config.model.encoder.blocks is 24, which config.mesh.stage=16 does not divide",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_told_as_in_training(cli, devices, words, line):
    config = f"--config={CONFIGS}/babeldraw/20b.py"
    status, printed, said = cli("inspect", config, *words, f"--devices={devices}")
    assert (status, printed) == (2, "") and said.startswith(f"babeldraw: error: {line}")
    assert len(said.splitlines()) == 1


def test_a_section_may_be_left_out(cli):
    config = "configs/demo/text_to_image.py"
    status, printed, said = cli("inspect", f"--config={config}", "--config.evaluators.samples=None")
    assert status == 0, said
    status, _, said = cli("inspect", f"--config={config}", "--config.evaluators.smaples=None")
    assert status == 2 and "config.evaluators.smaples is not a field" in said


def test_a_field_of_a_section_that_is_not_there_makes_it(cli):
    words = ["inspect", f"--config={CONFIGS}/demo/text_to_image.py"]
    assert cli(*words, "--config.evaluators.samples.num=4")[0] == 0
    status, _, said = cli(*words, "--config.evaluators.samples.nmu=4")
    assert status == 2 and said.count("\n") == 1 and "config.evaluators.samples.nmu" in said
    status, _, said = cli(*words, "--config.evaluators.samples.num=many")
    assert status == 2 and "config.evaluators.samples.num is 'many'" in said


def test_an_average_of_the_weights_is_counted(cli):
    words = ["inspect", "--config=configs/demo/tokenizer.py:runlocal"]
    status, printed, _ = cli(*words)
    assert status == 0 and "average" not in printed
    # A field of a section that is None, as a shell writes a truth value.
    status, averaged, _ = cli(*words, "--config.train.ema.warmup=false")
    rows = {
        line.split("  ")[0]: line.split()[1] for line in averaged.splitlines() if "values" in line
    }
    assert status == 0 and rows["average"] == rows["parameters"]
    before, now = (
        float(text.split("per trained parameter")[1].split()[0]) for text in (printed, averaged)
    )
    assert now == pytest.approx(before + 4)


# ------------------------------------------------------------------ what a step costs

LOCAL = f"--config={CONFIGS}/demo/tokenizer.py:runlocal"


def on_a_chip(cli, *words):
    """MiB at rest and of a step on one device, GiB in all and of the chip; the verdict."""
    status, printed, said = cli("inspect", LOCAL, *words)
    assert status == 0, said
    parts = [on_one_device(printed, name) for name in AT_REST if "--devices" in str(words)]
    ours = r"^(?:gradients|activations) +on one device +([\d,.]+) MiB"
    whole = r"^in all, on one device: ([\d,.]+) GiB of the ([\d.]+) of a .*$"
    step, line = re.findall(ours, printed, re.MULTILINE), re.search(whole, printed, re.MULTILINE)
    numbers = [float(n.replace(",", "")) for n in (*step, *line.groups())]
    return sum(parts), *numbers, line[0]


AT_REST = ("parameters", "optimizer state", "frozen", "extra", "one batch")


def test_a_step_fits_a_chip_that_has_room(cli):
    rest, gradients, kept, total, room, line = on_a_chip(cli, "--devices=1", "--kind=v5e")
    assert total == pytest.approx((rest + gradients + kept) / 1024, abs=0.006)
    assert room == CHIPS["v5e"].hbm_gib and line.endswith(" v5e chip: fits")


def test_each_device_holds_the_activations_of_its_own_examples(cli):
    *_, one, _, _, _ = on_a_chip(cli, "--devices=1", "--config.train.batch_size=512")
    *_, four, _, _, _ = on_a_chip(cli, "--devices=4", "--config.train.batch_size=2048")
    assert four == one > 0


def test_what_does_not_fit_names_what_would_help(cli):
    words = ["--config.train.batch_size=1048576", "--config.tokenizer.encoder.compute.remat=full"]
    *_, total, room, line = on_a_chip(cli, *words)
    assert total > room == 30.75
    _, helps = line.split("does NOT fit; what helps: ")
    assert helps == (
        "a smaller config.train.batch_size (1048576); config.tokenizer.decoder.compute.remat=full "
        "(none); more --devices; config.mesh.rules=fsdp (data_parallel)"
    )


def test_the_time_of_a_step_is_its_operations_over_a_usual_rate():
    printed = describe_work(int(0.12 * 8 * 0.4 * 275e12), 256, "v4", 8)
    assert printed.splitlines() == [
        "a step of 256 examples: 105.6 TFLOP",
        "a step at 40 % of the rate of 8 v4 chips: 0.12 s, 2,133 examples/s",
    ]
    assert "of 1 v6e chip: 2 ms, 1,000 examples/s" in describe_work(
        int(0.8e-3 * CHIPS["v6e"].peak), 2, "v6e", 1
    )


def test_operations_are_those_of_the_formula_or_of_the_trace(runlocal):
    def asked(name):
        experiment = parse(runlocal(name))
        objective = whole_objective(experiment)
        abstract = jax.eval_shape(objective.init, jax.random.key(0))
        return experiment, operations(experiment, objective, abstract)

    experiment, flops = asked("demo/tokenizer.py")
    assert flops == experiment.flops().per_example * experiment.train.batch_size
    # A classifier has no formula.
    experiment, flops = asked("demo/classifier.py")
    assert experiment.flops() is None and flops > 0


def test_a_kind_that_is_not_known(cli):
    status, printed, said = cli("inspect", LOCAL, "--kind=h100")
    assert (status, printed) == (2, "")
    assert said == (
        "babeldraw: error: --kind is 'h100'; the kinds of devices known are v4, v5p, v5e, v6e\n"
    )


def test_a_step_that_is_no_tpus_is_told_in_a_line(runlocal):
    config = runlocal("demo/tokenizer.py")
    objective = whole_objective(parse(config))
    state = jax.eval_shape(objective.init, jax.random.key(0)), objective.axes()
    for part in (config.tokenizer.encoder, config.tokenizer.decoder):
        part.compute.kernel = "cudnn"
    said = describe_memory(parse(config), None, *state, 0, "v4")
    assert said.startswith("the memory of a step on a TPU is not estimated: kernel is 'cudnn'")


@pytest.mark.parametrize(
    ("at_rest", "verdict"), [(0, "fits"), (25, "near the limit"), (31, "does NOT fit")]
)
def test_what_is_in_use_leaves_room_for_gaps(runlocal, monkeypatch, at_rest, verdict):
    monkeypatch.setattr(inspect_cost, "held_in_step", lambda *_: Held())
    experiment = parse(runlocal("demo/tokenizer.py"))
    said = describe_memory(experiment, None, None, None, at_rest * 2**30, "v4")
    assert f"{at_rest}.00 GiB of the 30.75 of a v4 chip: {verdict}" in said
