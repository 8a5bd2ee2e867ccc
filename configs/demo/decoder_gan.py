"""The decoder of a coarse tokenizer of shapes, tuned on with the adversarial term: 3 x 3 tokens.

    babeldraw train --config=configs/demo/tokenizer_coarse.py --workdir=runs/coarse
    babeldraw train --config=configs/demo/decoder_gan.py --workdir=runs/coarse_sharp \\
        --config.tokenizer_run=runs/coarse

Nine tokens leave open where exactly an edge is; L2 alone answers with a blur, the mean of what may
be. `docs/examples/sharpening.py` trains it with and without the term and compares; the figures are
in docs/stage1.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

STEPS = 700
SCHEDULE = {
    "warmup_steps": 50,
    "decay_start": 50,
    "decay_end": STEPS,
    "final_ratio": 0.05,
    "kind": "cosine",
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    coarse = load_config("tokenizer_coarse.py", beside=__file__).to_dict()
    config = {
        "objective": "image_tokenizer",
        "decoder_only": True,
        "keep_decoder": True,
        "train": {**coarse["train"], "steps": STEPS, "checkpoint_every": 100},
        "data": coarse["data"],
        "tokenizer": coarse["tokenizer"],
        "loss": {**coarse["loss"], "adversarial": 0.3, "restart_below": 0.0},
        "discriminator": {
            **coarse["discriminator"],
            "kind": "stylegan",
            "channels": 32,
            "max_channels": 128,
            "start_step": 0,
        },
        # Momentum lets the two networks chase each other: little for one, none for the other.
        "optimizer": {
            "name": "adamw",
            "b1": 0.5,
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {"peak": 5e-4, **SCHEDULE},
        },
        "discriminator_optimizer": {
            "name": "adamw",
            "b1": 0.0,
            "b2": 0.99,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,
            "schedule": {"peak": 1e-3, **SCHEDULE},
        },
        "evaluators": coarse["evaluators"],
    }
    return complete(config, variant)
