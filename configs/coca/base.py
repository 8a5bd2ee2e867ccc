"""CoCa-Base: 12 image, 12 unimodal and 12 multimodal blocks of width 768, at 288 px.

    babeldraw train --config=configs/coca/base.py --workdir=runs/coca_base \\
        --config.data.path=laion400m

CoCa (arXiv 2205.01917), Table 1: 86M parameters on the image's side and 297M on the text's; the
poolers and projections, for which those numbers leave no room, are 6M more. Section 4.1: batch
65,536, 500,000 steps, Adafactor, the learning rate up to 8e-4 over the first 2 % of the steps and
linearly down. It was trained there on JFT-3B and ALIGN, which are not public; the further epoch at
576 px is left out. Parti (arXiv 2206.10789) reranks its 16 samples by one of this size that was
trained on the generator's own data; its batch, steps and text length are not published. Not trained
here.

    babeldraw compile --config=configs/coca/base.py --topology=v4:4x8x16

Estimated (docs/compile.md): 13.4 GiB per chip, 0.458 s per step, 143,000 pairs/s, MFU 0.360
(capped; raw 0.299), 2.6 days for 500,000 steps on 512 chips; attention at what it declares.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete

STACK = {
    "blocks": 12,
    "heads": 12,
    "dim": 768,
    "hidden": 3072,
    "activation": "gelu",
    "bias": True,
    "compute": {"dtype": "bfloat16", "remat": "full"},
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: empty, or runlocal for a few quick steps."""
    steps = 500_000
    return complete(
        {
            "objective": "contrastive_captioner",
            "train": {"steps": steps, "batch_size": 65_536, "checkpoint_every": 1000},
            "data": {
                "source": "tfds",
                "path": "laion400m",
                "split": "train[1%:]",
                "eval_split": "train[:1%]",
                "workers": 64,
            },
            "model": {
                "image_encoder": STACK,
                "unimodal": STACK,
                "multimodal": STACK,
                "image_size": (288, 288),
                "patch_size": 18,
                "text_vocab_size": 64_000,
                "text_length": 128,
                "queries": 256,
                "embedding_dim": 768,
                "temperature": 0.07,
            },
            "loss": {"contrastive": 1.0, "captioning": 2.0},
            "optimizer": {
                "name": "adafactor",
                "b1": 0.9,
                "b2": 0.999,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "schedule": {
                    "peak": 8e-4,
                    "warmup_steps": 10_000,
                    "decay_start": 10_000,
                    "decay_end": steps,
                    "final_ratio": 0.0,
                    "kind": "linear",
                },
            },
            "mesh": {"rules": "data_parallel"},
        },
        variant,
    )
