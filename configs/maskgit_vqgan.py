"""MaskGIT's tokenizer: a VQGAN without attention, 1,024 codes, 16 px to a code (54.5M).

    babeldraw train --config=configs/maskgit_vqgan.py --workdir=runs/maskgit_vqgan \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_lpips.safetensors

Chang et al., "MaskGIT: Masked Generative Image Transformer", CVPR 2022, and the config in its code;
not trained here. Published weights, of the first two rows, are read by `babeldraw import`:

    babeldraw import --kind=maskgit_vqgan --torch=maskgit-vqgan-imagenet-f16-256.bin \\
        --config=configs/maskgit_vqgan.py --config.loss.perceptual=0 --workdir=runs/maskgit_vqgan

| row | pixels | codes | published rFID on ImageNet |
|---|---|---|---|
| f16_256 | 256 x 256 | 16 x 16 of 1,024 | 2.28 |
| f16_512 | 512 x 512 | 32 x 32 of 1,024 | 1.97 |

The values of training are those of the authors' config. Where the two differ from us: their
perceptual term is by ResNet-50, ours by VGG16 (LPIPS); their R1 penalty is 10 and whether lazy is
not told, ours is StyleGAN2's of gamma 10; their discriminator is StyleGAN's without the deviation
of a minibatch, ours has it.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete

# Height and width of the pictures.
ROWS = {"f16_256": 256, "f16_512": 512}
# Constant; no warm-up is told of.
OPTIMIZER = {
    "name": "adamw",
    "b1": 0.0,
    "b2": 0.99,
    "weight_decay": 0.0,
    "clip_norm": 0.0,
    "schedule": {"peak": 1e-4, "warmup_steps": 0, "kind": "constant"},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(variant, row=(*ROWS,))
    side, variant = ROWS[asked["row"]], asked["variant"]
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": 1_000_000,
            "batch_size": 256,
            "checkpoint_every": 5000,
            "ema": {"decay": 0.999},
        },
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            "workers": 64,
        },
        "tokenizer": {"kind": "vqgan", "image_size": (side, side)},
        "loss": {"commitment": 0.25, "entropy": 0.1, "perceptual": 0.1, "adversarial": 0.1},
        "discriminator": {"kind": "stylegan", "channels": 64},
        "adversarial": {"loss": "non_saturating", "r1_gamma": 10.0},
        "optimizer": OPTIMIZER,
        "discriminator_optimizer": OPTIMIZER,
    }
    return complete(config, variant)
