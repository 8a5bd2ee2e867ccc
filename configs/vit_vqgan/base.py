"""ViT-VQGAN Base: 12 blocks, 12 heads, width 768, feed-forward 3072, on each side (91M).

    babeldraw train --config=configs/vit_vqgan/base.py --workdir=runs/vit_vqgan_base \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Yu et al., ICLR 2022, Tables 1 and 2, there on 128 TPU v4 with all of these losses: FID of
ImageNet reconstructions 1.55. Not trained here yet. `babeldraw import --help`
tells how to make the file of perceptual weights; `--config.loss.perceptual=0` does without.

On 128 TPU v4, 256 px, the full step with both networks (`babeldraw compile --topology=v4:4x4x8`):
8.89 GiB per chip, of it 2.39 for state and batch; estimated 0.123 s a step, 2,085 images/s (capped;
raw 0.175 s); docs/compile.md says how good such an estimate is.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 12, "heads": 12, "dim": 768, "hidden": 3072}


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
