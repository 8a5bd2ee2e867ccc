"""MaskGIT on ImageNet by class: on TiTok's 32 or 64 tokens, and Google's own on a grid's.

    babeldraw train --config=configs/maskgit.py:titok_l32 --workdir=runs/maskgit_l32 \\
        --config.tokenizer_run=runs/titok_l32 --config.data.path=imagenet2012
    babeldraw train --config=configs/maskgit.py --workdir=runs/maskgit \\
        --config.tokenizer_run=runs/maskgit_vqgan --config.data.path=imagenet2012

Chang et al., "MaskGIT: Masked Generative Image Transformer", CVPR 2022; Yu et al., "An Image is
Worth 32 Tokens for Reconstruction and Generation", 2024. Not trained here. As published:

| row | tokenizer, tokens | steps | FID | IS | images/s, one A100 | parameters |
|---|---|---|---|---|---|---|
| google_256 | configs/maskgit_vqgan.py:f16_256, 256 | 8 | 6.06 | 182.1 | 50.5 | 172.5M |
| google_512 | configs/maskgit_vqgan.py:f16_512, 1,024 | 12 | 7.32 | | 3.9 | 173.0M |
| titok_l32 | configs/titok.py:l32,stage2, 32 | 8 | 2.77 | | 101.6 | 177.2M |
| titok_b64 | configs/titok.py:b64,stage2, 64 | 8 | 2.48 | 262.5 | 89.8 | 177.2M |
| titok_s128 | configs/titok.py:s128,stage2, 128 | 64 | 1.97 | 281.8 | 7.8 | 295.0M |
| titok_l64_512 | configs/titok.py:l64_512,stage2, 64 | 8 | 2.74 | | 41.0 | 177.2M |
| titok_b128_512 | configs/titok.py:b128_512,stage2, 128 | 8 | 2.13 | | 33.3 | 177.3M |

Of 512 px neither the parameters nor the way of drawing are told in what we read: network and number
of steps are those of 256 px, l64_512 draws as titok_l32 and b128_512 as titok_b64 does, a guess.

TiTok's authors: 500,000 steps of 2,048 center crops, mirrored half the time.
Google published no training code: batch, steps, rates and the masks' schedule are those of the
config beside its sampling code, and how the rate falls is not told. Of both, attention's weights
are dropped too, which no kernel does: docs/masked.md. titok_s128, 287M in its paper, has blocks
with long skips, without dropout. What the values of `sampling` mean: there too. On TPUs titok_l32
trains quicker with `--config.model.packed=32` (docs/parallelism.md). Published weights:

    babeldraw import --kind=maskgit --torch=generator_titok_l32.bin \\
        --config=configs/maskgit.py:titok_l32 --config.tokenizer_run=runs/titok_l32 \\
        --workdir=runs/maskgit_l32
    babeldraw import --kind=uvit --torch=generator_titok_s128.bin \\
        --config=configs/maskgit.py:titok_s128 --config.tokenizer_run=runs/titok_s128 \\
        --workdir=runs/uvit_s128
    babeldraw import --kind=maskgit --flax=maskgit_imagenet256.msgpack \\
        --config=configs/maskgit.py --config.tokenizer_run=runs/maskgit_vqgan \\
        --workdir=runs/maskgit
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

# Of TiTok's; Google's rule is not told, and there all matrices decay.
UNDECAYED = r"bias|norm|table"
STACK = {
    "blocks": 24,
    "heads": 16,
    "dim": 768,
    "hidden": 3072,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "bias": True,
    "compute": {"dtype": "bfloat16", "remat": "hidden"},
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
}
TITOK = {
    "train": {
        "steps": 500_000,
        "batch_size": 2048,
        "checkpoint_every": 1000,
        "ema": {"decay": 0.999},
    },
    "condition": {"kind": "class", "num_classes": 1000, "dropout": 0.1},
    "model": {
        "kind": "maskgit",
        "stack": {**STACK, "activation": "gelu_exact"},
        "style": "bert",
        "token_types": 2,
    },
    "prediction": {"kind": "masked"},
    "optimizer": {
        "name": "adamw",
        "b2": 0.96,
        "weight_decay": 0.03,
        "clip_norm": 1.0,
        "schedule": {
            "peak": 2e-4,
            "warmup_steps": 10_000,
            "decay_start": 10_000,
            "decay_end": 500_000,
            "final_ratio": 0.05,
            "kind": "cosine",
        },
        "groups": ({"names": UNDECAYED, "decay": False},),
    },
}

UVIT = {
    "kind": "uvit",
    "stack": {
        "blocks": 21,
        "heads": 16,
        "dim": 1024,
        "hidden": 4096,
        "activation": "gelu_exact",
        "bias": True,
        "compute": STACK["compute"],
    },
}


def google(steps: int) -> dict:
    """Its sampling."""
    return {"steps": steps, "schedule": "cosine", "order": "probability"}


def titok(scale: float, noise: float) -> dict:
    """Its sampling; they guide by `cond + scale (cond - uncond)`."""
    return {
        "steps": 8,
        "order": "logit",
        "temperature": noise,
        "temperature_schedule": "linear",
        "choice_temperature": noise,
        "logits_temperature": 0.5,
        "logits_annealing": 0.8,
        "guidance": 1 + scale,
        "guidance_schedule": "linear",
    }


# Theirs is the second form already; docs/masked.md.
S128 = titok(5.9, 2.8) | {"steps": 64, "guidance_schedule": "power_cosine", "guidance_power": 3.0}
# The tokenizer's config and its argument, what the run sets, how it draws.
ROWS = {
    "google_256": ("maskgit_vqgan.py", "f16_256", GOOGLE, google(8)),
    "google_512": ("maskgit_vqgan.py", "f16_512", GOOGLE, google(12)),
    "titok_l32": ("titok.py", "l32,stage2", TITOK, titok(4.5, 9.5)),
    "titok_b64": ("titok.py", "b64,stage2", TITOK, titok(3.0, 11.0)),
    "titok_s128": ("titok.py", "s128,stage2", TITOK | {"model": UVIT}, S128),
    "titok_l64_512": ("titok.py", "l64_512,stage2", TITOK, titok(4.5, 9.5)),
    "titok_b128_512": ("titok.py", "b128_512,stage2", TITOK, titok(3.0, 11.0)),
}


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: a row, the first if none; and runlocal for a few quick steps of it."""
    asked = chosen(variant, row=(*ROWS,))
    file, row, sections, sampling = ROWS[asked["row"]]
    config = {
        "objective": "generator",
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            "crop": "center" if sections is GOOGLE else "center_mirrored",
            "workers": 64,
        },
        "tokenizer": load_config(file, __file__, row)["tokenizer"],
        "sampling": sampling,
        "evaluators": {"samples": {"num": 10, "each": 8}},
        **sections,
    }
    return complete(config, asked["variant"])
