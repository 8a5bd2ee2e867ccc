"""MaskGIT on ImageNet by class: Google's own generators (172M).

    babeldraw train --config=configs/maskgit.py --workdir=runs/maskgit \\
        --config.tokenizer_run=runs/maskgit_vqgan --config.data.path=imagenet2012

Chang et al., "MaskGIT: Masked Generative Image Transformer", CVPR 2022. Not trained here.

| row | tokens of | steps | guidance | FID on ImageNet | parameters |
|---|---|---|---|---|---|
| google_256 | configs/maskgit_vqgan.py:f16_256, 256 | 8 | none | 6.06 | 172.5M |
| google_512 | configs/maskgit_vqgan.py:f16_512, 1,024 | 12 | none | 7.32 | 173.0M |

Google published no training code: batch, steps, rates and the masks' schedule are those of the
config beside its sampling code, the rate after the warm-up is not told. Attention's weights are
dropped there and not here. docs/masked.md has what each value of `sampling` means.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import choose, complete, load_config

STACK = {
    "blocks": 24,
    "heads": 16,
    "dim": 768,
    "hidden": 3072,
    "dropout": 0.1,
    "bias": True,
    "compute": {"dtype": "bfloat16"},
}
GOOGLE = {
    "train": {"steps": 2_000_000, "batch_size": 256, "checkpoint_every": 5000},
    "condition": {"kind": "class", "num_classes": 1000},
    "model": {
        "kind": "maskgit",
        "stack": {**STACK, "activation": "gelu"},
        "style": "bert",
        "head": "mlm",
        "mask_is_no_class": True,
    },
    "prediction": {"kind": "masked", "schedule": "cosine", "unmasked_weight": 0.0},
    "optimizer": {
        "name": "adamw",
        "b2": 0.96,
        "weight_decay": 0.045,
        "schedule": {"peak": 1e-4, "warmup_steps": 5_000, "kind": "constant"},
    },
    "sampling": {"steps": 8, "schedule": "cosine", "choice_temperature": 4.5},
}
# The tokenizer's config and row, and what the run sets.
ROWS = {
    "google_256": ("maskgit_vqgan.py", "f16_256", GOOGLE),
    "google_512": (
        "maskgit_vqgan.py",
        "f16_512",
        {**GOOGLE, "sampling": {**GOOGLE["sampling"], "steps": 12}},
    ),
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: a row, the first if empty; and runlocal for a few quick steps of it."""
    (file, row, sections), variant = choose(variant, ROWS)
    config = {
        "objective": "generator",
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            "crop": "center",
            "workers": 64,
        },
        "tokenizer": load_config(file, __file__, row)["tokenizer"],
        "evaluators": {"samples": {"num": 10, "each": 8}},
        **sections,
    }
    return complete(config, variant)
