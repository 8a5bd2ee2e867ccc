"""A trained tokenizer goes on with a folder of your own pictures: docs/tuning.md.

    babeldraw train --config=configs/folder/tune_tokenizer.py:runs/my_tokenizer \\
        --workdir=runs/tuned_tokenizer --config.data.path=my_pictures

The argument is the run to begin from, whose network and losses are taken, and its weights, bit for
bit. Without one the sizes are those of tokenizer.py:

    babeldraw train --config=configs/folder/tune_tokenizer.py --workdir=runs/tuned_tokenizer \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer

All parts learn, so codes change and a generator of the old ones cannot use them. With `,decoder`
behind the run the decoder alone learns, which gives a generator of the old codes better pictures
(`sample --tokenizer_run=runs/tuned_tokenizer`).
"""

from ml_collections import ConfigDict

from babeldraw.tokenizers.base import PARTS
from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, named_run, slower

# Of the run's own peak.
SHARE, STEPS, BATCH = 0.2, 1000, 32
DECODER = "decoder"


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a tokenizer's run, with or without `,decoder`; runlocal for a few quick steps."""
    run, word = named_run(argument, DECODER)
    base = config_of(run, "image_tokenizer", lambda: load_config("tokenizer.py", beside=__file__))
    kept = ("objective", "tokenizer", "proxy_run", "loss", "discriminator", "adversarial")
    parts = (DECODER,) if word == DECODER else PARTS
    config = {
        **{name: base[name] for name in (*kept, "perceptual")},
        "train_groups": parts,
        "start_groups": parts,
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
    if word == DECODER:
        # Codes that are kept are not moved either.
        config["loss"] = {**base["loss"], "restart_below": 0.0}
    return complete(config, LOCAL if word == LOCAL else "")
