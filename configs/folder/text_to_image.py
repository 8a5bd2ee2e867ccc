"""A generator for a folder of your own pictures with captions.

    babeldraw train --config=configs/folder/text_to_image.py --workdir=runs/my_generator \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer

The tokenizer's sizes must be those of the run that `tokenizer_run` names: set the same fields.
A small network that sees each picture often, words that are told apart from the start and noise on
the codes that it reads: what made the emoji demo follow its text (docs/emoji.md).
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

STACK = {"heads": 4, "dim": 192, "hidden": 768, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 5000
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 32, "checkpoint_every": 500, "eval_every": 1000},
        # Whole pictures; `random` for few that may be cut.
        "data": {"source": "folder", "crop": "center"},
        "tokenizer": load_config("tokenizer.py", beside=__file__)["tokenizer"],
        "condition": {"kind": "text", "length": 64, "stddev": 0.5},
        "prediction": {"kind": "next_token", "noise": 0.5},
        "model": {
            "kind": "babeldraw",
            "encoder": {"blocks": 2, **STACK},
            "decoder": {"blocks": 4, **STACK},
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.98,
            "clip_norm": 1.0,
            # Of the words, whatever the network.
            "groups": ({"names": "(text_encoder|prefix)/embed", "rate": 3.0},),
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 200,
                "decay_start": 200,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "sampling": {"guidance": 1.5, "temperature": 0.3},
        "evaluators": {"validation_loss": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, variant)
