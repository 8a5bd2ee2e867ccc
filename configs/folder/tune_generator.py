"""A trained generator goes on with a folder of your own pictures and captions: docs/tuning.md.

    babeldraw train --config=configs/folder/tune_generator.py:runs/my_generator \\
        --workdir=runs/tuned --config.data.path=my_pictures

The argument is the run to begin from (RUN@STEP: an earlier checkpoint that was kept). Its network,
its tokenizer, its way to draw and its vocabulary are taken, and its weights, bit for bit. Without
one the sizes are those of text_to_image.py, and the run is named by `starts`:

    babeldraw train --config=configs/folder/tune_generator.py --workdir=runs/tuned \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer \\
        --config.starts="({'run': 'runs/my_generator'},)"

A part stays as it is, or moves at its own pace, by its names:

        --config.optimizer.groups="({'names': 'text_encoder', 'rate': 0.0},)"
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, named_run, slower

# Of the run's own peak. Steps: some 15 passes over 2,000 pictures.
SHARE, STEPS, BATCH = 0.2, 1000, 32


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: the folder of a generator's run; runlocal for a few quick steps of none."""
    run, word = named_run(argument)
    base = config_of(run, "generator", lambda: load_config("text_to_image.py", beside=__file__))
    codes = ("tokenizer", "tokenizer_run", "level", "levels")
    kept = ("objective", *codes, "condition", "model", "prediction", "sampling")
    config = {
        **{name: base[name] for name in kept},
        "starts": () if word == LOCAL else ({"run": run or "runs/my_generator"},),
        "train": {
            "steps": STEPS,
            "batch_size": BATCH,
            "checkpoint_every": 250,
            "eval_every": 250,
            "ema": base["train"]["ema"],
        },
        "data": {"source": "folder", "crop": base["data"]["crop"]},
        "optimizer": slower(base["optimizer"], STEPS, SHARE),
        "evaluators": {"validation_loss": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, word)
