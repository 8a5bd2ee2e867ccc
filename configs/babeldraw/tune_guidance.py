"""A generator learns what to draw of no text, for guidance: Parti's fine-tuning of 100,000 steps.

    babeldraw train --config=configs/babeldraw/tune_guidance.py:runs/babeldraw_350m \\
        --workdir=runs/babeldraw_350m_guided

The argument is a generator's run, trained without `condition.dropout` or with another. Its network,
vocabulary, tokenizer and data are taken, and its weights, bit for bit; prompts are replaced by
padding in a tenth of the examples. With `,kept` behind the run its optimizer goes on as well,
moments and count of steps, and with it its schedule, at the end of which it stays; else the moments
are fresh, at a tenth of the run's peak. Another mixture of data: `--config.data.path=...`, or a
config of your own. Without an argument the sizes are those of 350m.py:

    babeldraw train --config=configs/babeldraw/tune_guidance.py --workdir=runs/babeldraw_guided \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=laion400m \\
        --config.starts="({'run': 'runs/babeldraw_350m'},)"

The paper tells the steps, in its first version, and neither the share, the rate nor what became of
the optimizer. Not trained here at this size.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, named_run, slower

STEPS, DROPOUT, SHARE = 100_000, 0.1, 0.1
KEPT = "kept"


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a generator's run, with or without `,kept`; runlocal for a few quick steps."""
    run, word = named_run(argument, KEPT)
    base = config_of(run, "generator", lambda: load_config("350m.py", beside=__file__))
    begun = {"run": run or "runs/babeldraw_350m"}
    starts = ({**begun, "into": "opt_state"}, begun) if word == KEPT else (begun,)
    config = {
        **base,
        "starts": () if word == LOCAL else starts,
        "train": {**base["train"], "steps": STEPS},
        "condition": {**base["condition"], "dropout": DROPOUT},
    }
    if word != KEPT:
        config["optimizer"] = slower(base["optimizer"], STEPS, SHARE)
    return complete(config, LOCAL if word == LOCAL else "")
