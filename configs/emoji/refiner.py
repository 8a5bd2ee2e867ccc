"""Iterative super-resolution on emoji: 24 x 24 codes, some masked and drawn again in six passes.

    babeldraw train --config=configs/emoji/refiner.py:runs/emoji_coglm \\
        --workdir=runs/emoji_refiner --config.data.path=data/emoji_192

The argument is a run of CogLM on configs/emoji/hierarchy.py, level 8 or 4, whose sizes and weights
are taken; all of it learns (CogView2, configs/cogview2/iterative.py). Without an argument all is
fresh:

    babeldraw train --config=configs/emoji/refiner.py --workdir=runs/emoji_refiner \\
        --config.data.path=data/emoji_192 --config.tokenizer_run=runs/emoji_hierarchy

How well a small one does: docs/super_resolution.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, into_refiner, named_run

ENLARGER = load_config("enlarger.py", beside=__file__)


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a run of CogLM; runlocal for a few quick steps."""
    run, word = named_run(argument)
    config = config_of(run, "generator", lambda: ENLARGER, network="coglm")
    text = config["condition"] if run else config["condition"]["parts"]["text"]
    names = ("decoder", "start", "positions", "specials", "stddev")
    model = {name: config["model"][name] for name in names}
    config |= {
        "level": f"{config['level']}x3" if run else config["level"],
        "starts": into_refiner(run),
        "condition": {**text, "dropout": 0.0},
        "model": {"kind": "refiner", **model},
        "prediction": {"kind": "refinement"},
        "sampling": {"temperature": 1.3},
        "evaluators": {
            "validation_loss": config["evaluators"]["validation_loss"],
            "samples": None,
        },
    }
    return complete(config, LOCAL if word == LOCAL else "")
