"""DiT on ImageNet by class: 32 x 32 codes of four channels, denoised in squares of 2 x 2.

    babeldraw train --config=configs/dit.py --workdir=runs/dit_xl \\
        --config.tokenizer_run=runs/kl_f8 --config.data.path=imagenet2012

The argument, as in `configs/dit.py:b`, is a row and an objective: `ddpm`, the first, as published
with learned variances; or `flow`. The tokenizer is latent diffusion's (configs/autoencoder_kl.py).
Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023, and its code; not trained
here. FID-50K at 256 px, 250 steps, after 400K steps of 256 pictures without guidance (Table 4):

| row | width x blocks | parameters | Gflops | FID |
|---|---|---|---|---|
| xl | 1152 x 28 | 675.1M | 118.6 | 19.5 |
| l | 1024 x 24 | 458.1M | 80.7 | 23.3 |
| b | 768 x 12 | 130.5M | 23.0 | 43.5 |
| s | 384 x 12 | 33.0M | 6.1 | 68.4 |

XL after 7M steps: 9.62, and 2.27 with guidance 1.5 (IS 278.2). Their Gflops count a multiplication
and an addition once, ours twice. Published weights become a run by

    babeldraw import --kind=dit --torch=DiT-XL-2-256x256.pt --config=configs/dit.py:xl \\
        --config.tokenizer_run=runs/kl_f8 --workdir=runs/dit_xl

whose tokenizer must be the one that they were trained on.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

TOKENIZER = load_config("autoencoder_kl.py", beside=__file__)["tokenizer"]
# Width, blocks, heads.
ROWS = {"xl": (1152, 28, 16), "l": (1024, 24, 16), "b": (768, 12, 12), "s": (384, 12, 6)}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, an objective and runlocal, with commas between; the first if not said."""
    asked = chosen(argument, row=(*ROWS,), objective=("ddpm", "flow"))
    dim, blocks, heads = ROWS[asked["row"]]
    ddpm, steps = asked["objective"] == "ddpm", 400_000
    config = {
        "objective": "generator",
        "train": {
            "steps": steps,
            "batch_size": 256,
            "checkpoint_every": 5000,
            "ema": {"decay": 0.9999, "warmup": False},
        },
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            "crop": "center_mirrored",
            "workers": 64,
        },
        "tokenizer": TOKENIZER,
        "condition": {"kind": "class", "num_classes": 1000, "dropout": 0.1},
        "model": {
            "kind": "dit",
            "stack": {
                "blocks": blocks,
                "heads": heads,
                "dim": dim,
                "hidden": 4 * dim,
                "activation": "gelu",
                "bias": True,
                "compute": {"dtype": "bfloat16", "remat": "hidden"},
            },
            "learned_sigma": ddpm,
        },
        # The scale of the published tokenizer's codes; another one's is measured with ().
        "prediction": {
            "kind": "diffusion",
            "objective": asked["objective"],
            "times": "uniform" if ddpm else "logit_normal",
            "shift": (0.0,),
            "scale": (0.18215,),
            "sampled": True,
        },
        "sampling": {
            "guidance": 1.5,
            "steps": 250 if ddpm else 50,
            "sampler": "ancestral" if ddpm else "heun",
            # What the published figures with guidance were drawn by.
            "guided_channels": 3 if ddpm else 0,
        },
        "optimizer": {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.999,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "schedule": {"peak": 1e-4, "warmup_steps": 0, "kind": "constant"},
        },
        "evaluators": {"samples": {"num": 10, "each": 8}},
    }
    return complete(config, asked["variant"])
