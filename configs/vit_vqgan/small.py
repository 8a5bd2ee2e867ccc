"""ViT-VQGAN Small: 8 blocks, 8 heads, width 512, feed-forward 2048, on each side (32M).

    babeldraw train --config=configs/vit_vqgan/small.py --workdir=runs/vit_vqgan_small \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Yu et al., ICLR 2022, Tables 1 and 2, there on 128 TPU v4 with all of these losses: FID of
ImageNet reconstructions 1.99. Not trained here yet. `babeldraw import --help`
tells how to make the file of perceptual weights; `--config.loss.perceptual=0` does without.

    babeldraw compile --config=configs/vit_vqgan/small.py --topology=v4:4x4x8 \\
        --config.perceptual.file=vgg_lpips.safetensors

Estimated (docs/compile.md): 4.6 GiB per chip, 0.103 s per step with both networks, of which 0.073 s
are the discriminator's at a step with R1, one in sixteen; 2,496 images/s on 128 chips.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 8, "heads": 8, "dim": 512, "hidden": 2048}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    return complete(
        {
            "objective": "image_tokenizer",
            "train": {"steps": 500_000, "batch_size": 256, "checkpoint_every": 5000},
            "data": {
                "source": "tfds",
                "path": "imagenet2012",
                "eval_split": "validation",
                "workers": 64,
            },
            "tokenizer": {
                "kind": "vit_vqgan",
                "encoder": STACK,
                "decoder": STACK,
                "output": "logit_laplace",
            },
            # ViT-VQGAN, section 3.2. What it leaves open is in docs/unconfirmed.md.
            "loss": {"perceptual": 0.1, "adversarial": 0.1, "logit_laplace": 0.1},
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
