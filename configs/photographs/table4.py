"""Code usage at toy scale (ViT-VQGAN, Table 4): 32-dim l2-normalised codes, the default there.

    python docs/examples/photographs.py --workdir=runs/photographs --only_crops
    babeldraw train --config=configs/photographs/table4.py --workdir=runs/table4/default \\
        --config.data.path=runs/photographs/crops

`docs/examples/table4.py` runs this, the same without the normalisation and the same with 256
dimensions, and compares; docs/tokenizer_experiments.md has the figures.

The weights of the terms are the paper's, without the adversarial and the perceptual one: where L2
stands alone, the quantizer's terms outweigh it, and a handful of codes takes everything in every
variant. Nothing restarts idle codes. The perceptual one is there by `--config.loss.perceptual=0.1
--config.perceptual.file=vgg_lpips.safetensors`, a file that docs/stage1.md tells how to get.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {"blocks": 1, "heads": 2, "dim": 128, "hidden": 512, "compute": {"scan": False}}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 1500
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": steps,
            "batch_size": 2,
            "log_every": 50,
            "checkpoint_every": 250,
            "eval_every": 250,
        },
        "data": {"source": "folder", "split": "train/", "eval_split": "test/"},
        "tokenizer": {
            "kind": "vit_vqgan",
            "encoder": STACK,
            "decoder": STACK,
            "image_size": (128, 128),
            # 65,536 tokens of 256 crops over 2,048 codes: 32 to a code, as 1,024 tokens of 256
            # pictures over 8,192 codes are in the paper.
            "quantizer": {"kind": "vq", "codebook_size": 2048, "code_dim": 32},
            "output": "logit_laplace",
        },
        "loss": {"logit_laplace": 0.1},
        "optimizer": {
            # The paper's Adam needs far more steps than there are here.
            "name": "muon",
            "b2": 0.99,
            "weight_decay": 1e-4,
            "clip_norm": 0.0,
            "schedule": {
                "peak": 2e-3,
                "warmup_steps": 50,
                "decay_start": 50,
                "decay_end": steps,
                "final_ratio": 0.5,
                "kind": "cosine",
            },
        },
        "evaluators": {"reconstruction": {"num_examples": 256, "batch_size": 128}},
    }
    return complete(config, variant)
