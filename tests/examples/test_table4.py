"""docs/examples/table4.py: three runs that differ in the codebook alone, and their table."""

import pytest

from babeldraw.config import to_dict
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("table4")


def test_the_variants_differ_in_the_codebook_alone(script):
    configs = [
        to_dict(parse(script.configured(changes, "crops")))
        for _, changes, _ in script.VARIANTS.values()
    ]
    quantizers = [config["tokenizer"]["quantizer"] for config in configs]
    books = [(q.pop("l2_normalized"), q.pop("code_dim")) for q in quantizers]
    assert books == [(True, 32), (False, 32), (True, 256)]
    assert configs[0] == configs[1] == configs[2]


def test_nothing_that_the_paper_lacks_keeps_codes_in_use(script):
    experiment = parse(script.configured({}, "crops"))
    assert (experiment.loss.restart_below, experiment.loss.commitment) == (0.0, 0.25)
    assert experiment.evaluators.reconstruction.usage_batch == 256


def test_other_steps_move_the_schedule_too(script):
    experiment = parse(script.configured({}, "crops", steps=70))
    assert (experiment.train.steps, experiment.optimizer.schedule.decay_end) == (70, 70)


def test_the_table_says_how_many_times_less_is_used(script):
    results = {
        name: {script.USAGE: usage, script.PSNR: 20.0, script.PERPLEXITY: 9.0}
        for name, usage in zip(script.VARIANTS, (0.3, 0.1, 0.02), strict=True)
    }
    usage = [row.split(" | ")[1:4] for row in script.table(results).splitlines()[2:]]
    assert usage == [
        ["30.00 %", "1.0", "96 %"],
        ["10.00 %", "3.0", "2 %"],
        ["2.00 %", "15.0", "4 %"],
    ]
