"""A trained tokenizer goes on with a folder of your own pictures: docs/tuning.md.

    babeldraw train --config=configs/folder/tune_tokenizer.py:runs/my_tokenizer \\
        --workdir=runs/tuned_tokenizer --config.data.path=my_pictures

The argument is the run to begin from, whose network and losses are taken, and its weights, bit for
bit. Without one the sizes are those of tokenizer.py:

    babeldraw train --config=configs/folder/tune_tokenizer.py --workdir=runs/tuned_tokenizer \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer

All parts learn, so codes change and a generator of the old ones cannot use them. The decoder alone
gives a generator of the old codes better pictures (`sample --tokenizer_run=runs/tuned_tokenizer`):

        --config.train_groups="('decoder',)" --config.start_groups="('decoder',)"
"""

from ml_collections import ConfigDict

from babeldraw.tokenizers.base import PARTS
from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import config_of, named_run, slower

# Of the run's own peak.
SHARE, STEPS, BATCH = 0.2, 1000, 32


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: the folder of a tokenizer's run; runlocal for a few quick steps."""
    run, word = named_run(argument)
    base = config_of(run, "image_tokenizer", lambda: load_config("tokenizer.py", beside=__file__))
    kept = ("objective", "tokenizer", "proxy_run", "loss", "discriminator", "adversarial")
    config = {
        **{name: base[name] for name in (*kept, "perceptual")},
        "train_groups": PARTS,
        "start_groups": PARTS,
        "tokenizer_run": run,
        "train": {
            "steps": STEPS,
            "batch_size": BATCH,
            "checkpoint_every": 250,
            "eval_every": 250,
            "ema": base["train"]["ema"],
        },
        "data": {"source": "folder", "crop": base["data"]["crop"]},
        "optimizer": slower(base["optimizer"], STEPS, SHARE),
        "discriminator_optimizer": slower(base["discriminator_optimizer"], STEPS, 1.0),
        "evaluators": {"reconstruction": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, word)
