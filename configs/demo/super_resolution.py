"""Super-resolution for the demo's tokenizer: 64 px to 128 px, 2 blocks of 16 channels.

    babeldraw train --config=configs/demo/super_resolution.py --workdir=runs/super_resolution \\
        --config.tokenizer_run=runs/demo/tokenizer

The l2 term alone, which suits flat shapes; the full recipe is configs/super_resolution/512.py.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("tokenizer.py", beside=__file__)["tokenizer"]


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 400
    config = {
        "objective": "super_resolution",
        "train": {"steps": steps, "batch_size": 8, "log_every": 50, "checkpoint_every": 100},
        "data": {"source": "shapes"},
        "tokenizer": TOKENIZER,
        "super_resolution": {"factor": 2, "blocks": 2, "channels": 16, "compute": {"scan": False}},
        "optimizer": {
            "name": "adamw",
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 20,
                "decay_start": 20,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {"upscaling": {"num_examples": 128}},
    }
    return complete(config, variant)
