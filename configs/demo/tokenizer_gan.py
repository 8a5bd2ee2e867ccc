"""The demo's tokenizer with the adversarial term: shapes, 48 x 48 px to 6 x 6 tokens.

    babeldraw train --config=configs/demo/tokenizer_gan.py --workdir=runs/tokenizer_gan

`docs/examples/adversarial.py` trains it with and without the adversarial term and compares; the
figures are in docs/stage1.md. There is no logit-Laplace term: on the flat colours of this world a
decoder can be all but certain, and the likelihood then crowds out the rest.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

STEPS = 2000
SCHEDULE = {
    "warmup_steps": 100,
    "decay_start": 100,
    "decay_end": STEPS,
    "final_ratio": 0.05,
    "kind": "cosine",
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    tokenizer = load_config("tokenizer.py", __file__).tokenizer.to_dict()
    config = {
        "objective": "image_tokenizer",
        "train": {"steps": STEPS, "batch_size": 8, "log_every": 50, "checkpoint_every": 500},
        "data": {"source": "shapes"},
        "tokenizer": {**tokenizer, "image_size": (48, 48)},
        # No file of perceptual weights is asked of a first run.
        "loss": {
            # At 1 the adversarial term outweighs L2, which is about 0.003 on these pictures.
            "l2": 10.0,
            "perceptual": 0.0,
            "adversarial": 0.1,
            "logit_laplace": 0.0,
            "restart_below": 0.05,
        },
        "discriminator": {"kind": "stylegan", "channels": 16, "max_channels": 64},
        "adversarial": {
            # StyleGAN2's own gamma, 10, is for a million pixels; in proportion to the pixels. A
            # penalty too heavy leaves no discriminator at all: docs/stage1.md.
            "r1_gamma": 0.1,
            # There is something to sharpen by then.
            "start_step": 400,
        },
        "optimizer": {
            "name": "muon",
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {"peak": 3e-3, **SCHEDULE},
        },
        "discriminator_optimizer": {
            "name": "adamw",
            "b2": 0.99,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,
            "schedule": {"peak": 3e-4, **SCHEDULE},
        },
        "evaluators": {"reconstruction": {"num_examples": 512}},
    }
    return complete(config, variant)
