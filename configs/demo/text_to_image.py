"""The demo's generator: a small encoder-decoder on the shapes world, 64 tokens a picture.

    babeldraw train --config=configs/demo/text_to_image.py --workdir=runs/text_to_image \\
        --config.tokenizer_run=runs/tokenizer
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

TOKENIZER = load_config("tokenizer.py", beside=__file__)["tokenizer"]
SAMPLING = {"guidance": 1.5, "temperature": 0.5}
STACK = {"heads": 4, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 2800
    config = {
        "objective": "generator",
        "train": {
            "steps": steps,
            "batch_size": 16,
            "log_every": 100,
            "checkpoint_every": 200,
            "eval_every": 700,
        },
        "data": {"source": "shapes"},
        "tokenizer": TOKENIZER,
        "condition": {"kind": "text", "length": 16},
        "model": {
            "kind": "babeldraw",
            "encoder": {"blocks": 2, **STACK},
            "decoder": {"blocks": 4, **STACK},
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.98,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-3,
                "warmup_steps": 200,
                "decay_start": 200,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "sampling": SAMPLING,
        "evaluators": {
            "prompts": {"num_prompts": 256},
            "validation_loss": {"num_examples": 512},
            # `prompts` draws a grid of its own.
            "samples": None,
        },
    }
    return complete(config, variant)
