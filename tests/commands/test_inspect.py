"""What a config would train, without allocating it."""

import re
from pathlib import Path

import pytest

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
    assert "largest [512 vocab, 8 code_dim]" in printed


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
