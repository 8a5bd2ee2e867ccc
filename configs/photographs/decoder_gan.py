"""The decoder of a tokenizer of photographs, tuned on with the adversarial term.

    python docs/examples/photographs.py --workdir=runs/photographs
    babeldraw train --config=configs/photographs/decoder_gan.py --workdir=runs/photos_sharp \\
        --config.tokenizer_run=runs/photographs/tokenizer \\
        --config.data.path=runs/photographs/crops

With the perceptual term; docs/stage1.md tells how to get the file of weights:

        --config.perceptual.file=vgg_lpips.safetensors --config.loss.perceptual=0.1

`docs/examples/sharpening.py` trains it with and without the term and compares; the figures are in
docs/stage1.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config

STEPS = 1000
SCHEDULE = {"warmup_steps": 50, "decay_start": 50, "decay_end": STEPS, "kind": "cosine"}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    base = load_config("tokenizer.py", beside=__file__).to_dict()
    config = {
        "objective": "image_tokenizer",
        "train_groups": ("decoder",),
        "start_groups": ("decoder",),
        "train": {**base["train"], "steps": STEPS, "log_every": 20, "eval_every": 0},
        "data": base["data"],
        "tokenizer": base["tokenizer"],
        # Four times the weight, and a pattern of 8 x 8 pixels lies over everything.
        "loss": {"l2": 10.0, "adversarial": 0.005},
        "discriminator": {"kind": "patchgan", "channels": 32, "max_channels": 128},
        "adversarial": {"head_start": 200, "r1_gamma": 0.3, "r1_every": 8},
        "optimizer": {
            "name": "adamw",
            "b1": 0.5,
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {"peak": 2e-4, "final_ratio": 0.02, **SCHEDULE},
        },
        # Quicker than what it judges, to the end.
        "discriminator_optimizer": {
            "name": "adamw",
            "b1": 0.5,
            "b2": 0.9,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "schedule": {"peak": 5e-4, "final_ratio": 0.5, **SCHEDULE},
        },
        "evaluators": base["evaluators"],
    }
    return complete(config, variant)
