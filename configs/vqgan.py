"""Convolutional VQGANs: taming-transformers', LlamaGen's, Open-MAGVIT2's with 18 bits.

    babeldraw train --config=configs/vqgan.py --workdir=runs/vq \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

The argument, as in `configs/vqgan.py:llamagen_16`, is a row. Not trained here; published
weights are read by `babeldraw import` (docs/ibq.md). 256 px; reconstruction FID on ImageNet as
published (taming's README for its own):

| row | codes | parameters | rFID |
|---|---|---|---|
| taming_16384, taming_1024 | 16 x 16 of 16,384 or 1,024 x 256 | 76M, 72M | 4.98, 7.94 |
| llamagen_16 | 16 x 16 of 16,384 x 8, l2-normalised | 72M | 2.19 |
| llamagen_8 | 32 x 32 of the same | 70M | 0.59 |
| magvit2 | 16 x 16 of 2^18, 18 bits | 115M | 1.17 |

The authors see pictures in [-1, 1]; our losses see [0, 1], so absolute errors weigh twice as much
here and squared ones four times. Taming's number of devices and of steps is in no config: 8 devices
of 12 pictures and a million steps are ours. Where they halve the discriminator's loss, LeCam's
weight is doubled.
"""

from typing import Any

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete

# Taming's network at f16; the multipliers of f8.
NETWORK = {
    "decoder_blocks": 3,
    "latent_kernel": 3,
    "attention": True,
    "shortcut": "input",
    "bias": True,
    "down": "convolution",
}
EIGHTH = (1, 2, 2, 4)
MAGVIT2 = {
    "encoder_blocks": 4,
    "decoder_blocks": 4,
    "middle_blocks": 4,
    "latent_channels": 18,
    "shortcut": "input",
    "down": "centred",
    "up": "depth_to_space",
    "adaptive": True,
}
VQ = {"kind": "vq", "code_dim": 256, "l2_normalized": False, "code_init": "uniform"}
FACTORIZED = {"kind": "vq", "codebook_size": 16384, "code_dim": 8, "code_init": "sphere"}
IMAGENET = 1_281_167


def adam(b1: float, b2: float, peak: float, clip: float = 0.0, drops: tuple = ()) -> dict:
    """Without decay; the rate is constant but for its drops."""
    schedule = {"peak": peak, "warmup_steps": 0, "kind": "constant", "drops": drops}
    own = {"name": "adamw", "b1": b1, "b2": b2, "weight_decay": 0.0, "clip_norm": clip}
    return own | {"schedule": schedule}


def epochs(count: int, batch_size: int) -> int:
    """Of ImageNet, in steps."""
    return count * IMAGENET // batch_size


def section(network: dict, quantizer: dict) -> dict:
    """The tokenizer's."""
    projected = network is not MAGVIT2
    own = {"kind": "vqgan", "network": network, "quantizer": quantizer}
    return own | {"projected": projected, "centred": True}


def taming(codes: int) -> dict[str, Any]:
    """Esser et al., 2021; `configs/imagenet_vqgan.yaml` there."""
    return {
        "train": {"steps": 1_000_000, "batch_size": 96},
        "tokenizer": section(NETWORK, VQ | {"codebook_size": codes, "beta_on": "codebook"}),
        "loss": {"l2": 0.0, "l1": 2.0, "perceptual": 1.0, "adversarial": 0.8},
        "adversarial": {"loss": "hinge", "start_step": 250_001, "adaptive": True, "r1_gamma": 0.0},
        "optimizer": adam(0.5, 0.9, 96 * 4.5e-6),
    }


def llamagen(network: dict) -> dict[str, Any]:
    """Sun et al., "Autoregressive Model Beats Diffusion", 2024; its defaults."""
    return {
        "train": {"steps": epochs(40, 128), "batch_size": 128},
        "tokenizer": section(network, FACTORIZED),
        "loss": {"l2": 4.0, "perceptual": 1.0, "adversarial": 0.5},
        "adversarial": {"loss": "hinge", "start_step": 20_000, "r1_gamma": 0.0},
        "optimizer": adam(0.9, 0.95, 1e-4, 1.0),
    }


def magvit2() -> dict[str, Any]:
    """Luo et al., "Open-MAGVIT2", 2024; `imagenet_lfqgan_256_L.yaml` there."""
    drops = tuple(epochs(n, 256) for n in (200, 250))
    return {
        "train": {"steps": epochs(270, 256), "batch_size": 256, "ema": {"decay": 0.999}},
        "tokenizer": section(MAGVIT2, {"kind": "lfq", "bits": 18}),
        "loss": {"l2": 0.0, "l1": 2.0, "perceptual": 1.0, "adversarial": 0.1, "entropy": 0.1},
        "adversarial": {"loss": "hinge_non_saturating", "r1_gamma": 0.0, "lecam": 0.1},
        "optimizer": adam(0.5, 0.9, 1e-4, drops=drops),
    }


ROWS = {
    "taming_16384": taming(16384),
    "taming_1024": taming(1024),
    "llamagen_16": llamagen(NETWORK),
    "llamagen_8": llamagen(NETWORK | {"multipliers": EIGHTH}),
    "magvit2": magvit2(),
}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(argument, row=(*ROWS,))
    row = ROWS[asked["row"]]
    config = {
        "objective": "image_tokenizer",
        **row,
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            # The shorter edge resized, then a window.
            "crop": "random_mirrored" if asked["row"].startswith("llamagen") else "window",
            "workers": 64,
        },
        "discriminator": {"kind": "patchgan", "channels": 64, "layers": 3, "norm": "batch"},
        "discriminator_optimizer": row["optimizer"],
    }
    config["train"] = {"checkpoint_every": 5000, **row["train"]}
    return complete(config, asked["variant"])
