"""VIM on scikit-learn's handwritten digits: 6 blocks, 4 heads, width 96, 36 tokens a picture.

    babeldraw train --config=configs/digits/vim.py --workdir=runs/digits/vim \\
        --config.tokenizer_run=runs/digits/tokenizer

by class, with a tenth of the classes dropped for guidance; and, with
`--config.evaluators.class_accuracy.classifier_run=runs/digits/classifier`, the pictures judged by a
classifier of real digits. For what a model understands that has seen no label, train it without
classes; the linear probe is run at its end:

    babeldraw train --config=configs/digits/vim.py:unconditional --workdir=runs/digits/vim_0 \\
        --config.tokenizer_run=runs/digits/tokenizer
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("tokenizer.py", beside=__file__)["tokenizer"]
CLASSES = {"kind": "class", "num_classes": 10, "dropout": 0.1}
PROBE = {"epochs": 200, "batch_size": 128, "weight_decay": 0.1, "pixels": 8}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, unconditional, or runlocal for a few quick steps."""
    unconditional = variant == "unconditional"
    steps = 800 if unconditional else 600
    config = {
        "objective": "generator",
        "train": {
            "steps": steps,
            "batch_size": 32,
            "log_every": 100,
            "checkpoint_every": 200,
        },
        "data": {"source": "digits"},
        "tokenizer": TOKENIZER,
        "condition": {"kind": "nothing"} if unconditional else CLASSES,
        "model": {
            "kind": "vim",
            "decoder": {
                "blocks": 6,
                "heads": 4,
                "dim": 96,
                "hidden": 384,
                "dropout": 0.1,
                "compute": {"scan": False},
            },
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.96,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-3,
                "warmup_steps": 100,
                "decay_start": 100,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {
            "validation_loss": {"num_examples": 360, "batch_size": 120},
            "samples": {"num": 10, "each": 8},
            "class_accuracy": None if unconditional else {"num": 64, "acceptance": 0.5},
            "linear_probe": PROBE if unconditional else None,
        },
    }
    return complete(config, "" if unconditional else variant)
