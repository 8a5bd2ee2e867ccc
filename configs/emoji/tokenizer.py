"""The emoji demo's tokenizer: ViT-VQGAN, 48 px, 8 x 8 tokens of 1,024 codes, with LPIPS.

    babeldraw emoji --out=data/emoji --size=48
    babeldraw train --config=configs/emoji/tokenizer.py --workdir=runs/emoji_tokenizer \\
        --config.data.path=data/emoji --config.perceptual.file=vgg_lpips.safetensors

`babeldraw demo --world=emoji` does both, and fetches the weights of VGG16: docs/emoji.md.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 4, "heads": 4, "dim": 256, "hidden": 1024, "compute": {"scan": False}}
TOKENIZER = {
    "kind": "vit_vqgan",
    "encoder": STACK,
    "decoder": STACK,
    "image_size": (48, 48),
    "patch_size": 6,
    "quantizer": {"kind": "vq", "codebook_size": 1024, "code_dim": 8},
}
# A concept in a style that training never shows together is judged by; others train.
DATA = {"source": "folder", "split": "train/", "eval_split": "unseen_pairs/"}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1250
    config = {
        "objective": "image_tokenizer",
        "train": {"steps": steps, "batch_size": 32, "checkpoint_every": 250, "eval_every": 500},
        "data": DATA,
        "tokenizer": TOKENIZER,
        "loss": {
            # More of it breaks lines, none blurs them: docs/emoji.md.
            "perceptual": 0.02,
            "adversarial": 0.0,
            "logit_laplace": 0.0,
            "restart_below": 0.05,
        },
        # VGG16 with its gradient at every picture would be half of the hour.
        "perceptual": {"every": 4},
        "discriminator": {"kind": "none"},
        "optimizer": {
            "name": "muon",
            "b2": 0.99,
            "weight_decay": 1e-4,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 200,
                "decay_start": 200,
                "decay_end": steps,
                "final_ratio": 0.05,
                "kind": "cosine",
            },
        },
        "evaluators": {
            "reconstruction": {"num_examples": 178, "batch_size": 89, "usage_batch": 178}
        },
    }
    return complete(config, variant)
