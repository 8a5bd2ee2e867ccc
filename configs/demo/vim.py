"""VIM on pictures of one coloured shape by class: 48 classes, 64 tokens a picture.

    babeldraw train --config=configs/demo/vim.py --workdir=runs/shape_vim \\
        --config.tokenizer_run=runs/demo/tokenizer \\
        --config.evaluators.class_accuracy.classifier_run=runs/shape_classifier

The classifier recognises 85.3 % of what it draws after its 1,200 steps (docs/vim.md).
"""

from ml_collections import ConfigDict

from babeldraw.data.shapes import PAIRS
from babeldraw.train.presets import complete, load_config

STACK = {"blocks": 4, "heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1200
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 16, "log_every": 100, "checkpoint_every": 200},
        "data": {"source": "shape_pairs"},
        "tokenizer": load_config("tokenizer.py", beside=__file__)["tokenizer"],
        "condition": {"kind": "class", "num_classes": len(PAIRS), "dropout": 0.1},
        "model": {
            "kind": "vim",
            "decoder": STACK,
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
            "validation_loss": {"num_examples": 512},
            "samples": {"num": 10, "each": 8},
            "class_accuracy": {"num": 16, "sampling": {"guidance": 2.0}},
        },
    }
    return complete(config, variant)
