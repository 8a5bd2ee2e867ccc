"""A larger decoder for a trained ViT-VQGAN: 32 blocks, 16 heads, width 1280, feed-forward 5120.

    babeldraw train --config=configs/vit_vqgan/decoder.py --workdir=runs/vit_vqgan_decoder \\
        --config.tokenizer_run=runs/vit_vqgan_small --config.data.path=imagenet2012 \\
        --config.perceptual.file=vgg_lpips.safetensors

The second phase of Babeldraw's stage 1 (Parti, section 2.1): encoder and codebook stay as they are,
bit for bit, so a generator trained on their tokens may draw with either decoder:

    babeldraw sample --workdir=runs/babeldraw_3b --tokenizer_run=runs/vit_vqgan_decoder ...

The sigmoid and the logit-Laplace loss are gone and the decoder gives colours as they are: with
them, zoomed pictures show saturated pixels. Steps, batch and schedule of this phase are not
published and are stage 1's here. Not trained here yet.

On 128 TPU v4 (`babeldraw compile --topology=v4:4x4x8`): 20.5 GiB per chip; estimated 0.199 s a
step, 1,287 images/s (capped; raw 0.261 s); docs/compile.md says how good such an estimate is.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

ENCODER = {"blocks": 8, "heads": 8, "dim": 512, "hidden": 2048}
DECODER = {"blocks": 32, "heads": 16, "dim": 1280, "hidden": 5120}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "image_tokenizer",
            "train_groups": ("decoder",),
            "train": {"steps": 500_000, "batch_size": 256, "checkpoint_every": 5000},
            "data": {
                "source": "tfds",
                "path": "imagenet2012",
                "eval_split": "validation",
                "workers": 64,
            },
            "tokenizer": {
                "kind": "vit_vqgan",
                "encoder": ENCODER,
                "decoder": DECODER,
                "output": "rgb",
            },
            "loss": {"perceptual": 0.1, "adversarial": 0.1, "logit_laplace": 0.0},
            "discriminator": {"kind": "stylegan"},
            "optimizer": {
                "name": "adamw",
                "b1": 0.9,
                "b2": 0.99,
                "weight_decay": 1e-4,
                "clip_norm": 0.0,
                "schedule": {
                    "peak": 1e-4,
                    "warmup_steps": 50_000,
                    "decay_start": 50_000,
                    "decay_end": 500_000,
                    "final_ratio": 0.5,
                    "kind": "cosine",
                },
            },
        },
        variant,
    )
