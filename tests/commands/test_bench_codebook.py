"""The bench of large codebooks: both forms are the same function, and both are told."""

import json

import jax
import numpy as np
import pytest

from babeldraw.commands.bench_codebook import FORMS, drawn

WORDS = ("bench", "codebook", "--tokens=24", "--dim=6", "--repeats=2")


def test_both_forms_are_timed_and_their_memory_told(cli, tmp_path):
    out = tmp_path / "bench.json"
    words = [*WORDS, "--codes=64", "--memory=96,2048", f"--json={out}"]
    status, printed, said = cli(*words)
    assert status == 0 and [line.split(":")[0] for line in said.splitlines()] == [
        "bench 1/2",
        "bench 2/2",
    ]
    report = json.loads(printed)
    assert report == json.loads(out.read_text())
    (found,) = report["codebooks"]
    assert found["codes"] == 64 and len(found["each"]) == 2
    assert {*found["in_blocks_is_faster"]} == {"clock", "processors"}
    assert {*found["ms"]} == {*found["memory_mib"]} == {*FORMS}
    assert {*report["memory_mib"]} == {"96", "2048"}


@pytest.mark.slow
@pytest.mark.parametrize("entropy", [False, True])
def test_both_forms_are_the_same_function(entropy):
    inputs = drawn(100, 24, 6)
    (one, of_one), (other, of_other) = (
        jax.value_and_grad(form, argnums=(0, 1))(*inputs, entropy) for form in FORMS.values()
    )
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for gradient, expected in zip(of_other, of_one, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("--codes=many", "--codes holds 'many'; sizes of codebooks are needed, such as 16384"),
        ("--memory=0", "--memory holds '0'; sizes of codebooks are needed"),
        ("--tokens=0", "--tokens is 0; at least 1 is needed"),
    ],
)
def test_what_cannot_be_measured_is_one_line(cli, word, line):
    status, _, said = cli(*WORDS, word)
    assert status == 2 and line in said and said.count("\n") == 1
