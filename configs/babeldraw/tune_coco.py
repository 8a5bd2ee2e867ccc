"""A generator is fine-tuned on MS-COCO, five captions a picture of which each step draws one.

    babeldraw train --config=configs/babeldraw/tune_coco.py:runs/babeldraw_350m \\
        --workdir=runs/babeldraw_350m_coco --config.data.path=coco_captions

The argument is a generator's run: its network, vocabulary and tokenizer are taken, and its weights,
bit for bit. Without one the sizes are those of 350m.py:

    babeldraw train --config=configs/babeldraw/tune_coco.py --workdir=runs/babeldraw_coco \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=coco_captions \\
        --config.starts="({'run': 'runs/babeldraw_350m'},)"

The data are TFDS's `coco_captions` with Karpathy's splits (`train` and `restval` train the
published ones), or files: `--config.data.source=folder --config.data.path=coco`, a list with a row
a caption. Parti's FID after fine-tuning is 3.22 with 20B; it tells neither steps nor rate: 10,000
steps of 512, 43 passes, and a tenth of the run's peak are ours. Not trained here.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, named_run, slower

STEPS, BATCH, SHARE = 10_000, 512, 0.1


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: the folder of a generator's run; runlocal for a few quick steps of none."""
    run, word = named_run(argument)
    base = config_of(run, "generator", lambda: load_config("350m.py", beside=__file__))
    config = {
        **base,
        "starts": () if word == LOCAL else ({"run": run or "runs/babeldraw_350m"},),
        "train": {
            **base["train"],
            "steps": STEPS,
            "batch_size": BATCH,
            "accumulation": 1,
            "checkpoint_every": 1000,
        },
        "data": {
            "source": "tfds",
            "path": "coco_captions",
            "split": "train+restval",
            "eval_split": "val",
            "captions": "random",
            "crop": "dalle_generator",
            "workers": 64,
        },
        "optimizer": slower(base["optimizer"], STEPS, SHARE),
        # Those of the run may judge another world.
        "evaluators": {"validation_loss": {"num_examples": 4096, "batch_size": 64}},
    }
    return complete(config, word)
