"""A small convolutional VQGAN on emoji, 64 px, 8 x 8 codes, with any quantizer of any size.

    babeldraw emoji --out=data/emoji --size=64
    babeldraw train --config=configs/emoji/ibq.py --workdir=runs/emoji_ibq \\
        --config.data.path=data/emoji

The argument, as in `configs/emoji/ibq.py:fsq,64k`, names a quantizer and a number of codes: `vq`
is taming's, `vq_l2` normalised and factorized as ViT-VQGAN's and LlamaGen's, `lfq`, `fsq` and `ibq`
are docs/ibq.md's. Nothing moves idle codes. docs/examples/codebooks.py compares them;
docs/ibq.md has what came of it.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

BASE = load_config("tokenizer.py", beside=__file__)
QUANTIZERS = ("ibq", "vq", "vq_l2", "lfq", "fsq")
# By the number of codes its bits; and the levels of FSQ, whose product is near it.
BITS = {"1k": 10, "8k": 13, "64k": 16, "256k": 18}
LEVELS = {
    "1k": (8, 5, 5, 5),
    "8k": (8, 8, 5, 5, 5),
    "64k": (8, 8, 8, 5, 5, 5),
    "256k": (8, 8, 8, 8, 8, 8),
}
NETWORK = {
    "channels": 32,
    "multipliers": (1, 1, 2, 2),
    "encoder_blocks": 1,
    "decoder_blocks": 1,
    "latent_channels": 64,
    "latent_kernel": 3,
    "attention": True,
    "shortcut": "input",
    "bias": True,
    "down": "convolution",
    "groups": 8,
}
# Of a code that has some: published ones have 256, which two cores have no time for.
DIM, FEW = 32, 8
# As published: 0.05 of IBQ, 0.1 of LFQ; the others have none.
ENTROPY = {"ibq": 0.05, "lfq": 0.1}
# Of colours in [0, 1]: 1 of those in [-1, 1], as of taming, IBQ and Open-MAGVIT2.
LOSSES = {"l1": 2.0, "l2": 0.0, "perceptual": 0.0, "restart_below": 0.0}
STEPS = 1500


def quantizer(kind: str, codes: str) -> dict:
    """The section of that name."""
    size = {"codebook_size": 2 ** BITS[codes]}
    plain = {"l2_normalized": False, "code_init": "uniform", "beta_on": "codebook"}
    return {
        "ibq": {"kind": "ibq", "code_dim": DIM, **size},
        "vq": {"kind": "vq", "code_dim": DIM, **plain, **size},
        "vq_l2": {"kind": "vq", "code_dim": FEW, "code_init": "sphere", **size},
        "lfq": {"kind": "lfq", "bits": BITS[codes]},
        "fsq": {"kind": "fsq", "levels": LEVELS[codes]},
    }[kind]


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: of each of `QUANTIZERS` and `BITS` one, and runlocal for a few steps."""
    asked = chosen(argument, quantizer=QUANTIZERS, codes=(*BITS,))
    config = BASE.to_dict()
    config["tokenizer"] = {
        "kind": "vqgan",
        "network": NETWORK,
        "image_size": (64, 64),
        "quantizer": quantizer(asked["quantizer"], asked["codes"]),
        "projected": True,
        "centred": True,
    }
    config["train"] |= {"steps": STEPS, "batch_size": 16, "log_every": 50}
    entropy = ENTROPY.get(asked["quantizer"], 0.0)
    config["loss"] |= LOSSES | {"entropy": entropy}
    schedule = {
        "peak": 1e-3,
        "warmup_steps": 100,
        "decay_start": 100,
        "decay_end": STEPS,
        "kind": "cosine",
    }
    optimizer = {"name": "adamw", "b1": 0.9, "b2": 0.95, "weight_decay": 0.0, "clip_norm": 1.0}
    config["optimizer"] |= optimizer | {"schedule": config["optimizer"]["schedule"] | schedule}
    return complete(config, asked["variant"])
