"""TiTok: 256 px in 32 to 256 latent tokens, 512 px in 64 or 128; TA-TiTok, drawn beside a text.

    babeldraw train --config=configs/titok.py --workdir=runs/titok_l32 \\
        --config.data.path=imagenet2012 --config.perceptual.file=vgg_convnext_s.safetensors

The argument, as in `configs/titok.py:b64,stage1`, is a row and a way. `single`, the first, goes
straight to pixels, by the recipe that is published for TA-TiTok; `stage1` and `stage2` are the
paper's, with MaskGIT's tokenizer for a proxy: docs/titok.md. Not trained here. Reconstruction FID
as published on ImageNet (Yu et al., 2024, Tables 1 and 2; the authors' README for later models):

| row | sides | codes | parameters | rFID |
|---|---|---|---|---|
| l32 | large, large | 32 of 4,096 x 12 | 641M in two stages | 2.21 |
| b64 | base, base | 64 | 205M | 1.70 |
| s128 | small, small | 128 | 84M | 1.71 |
| bl64, bl128 | base, large | 64, 128 of 8,192 x 64 | 390M | 2.06, 1.49 |
| sl256 | small, large | 256 | 330M | 1.03 |
| ll32_vae | large, large | 32 of 16 channels | 607M | 1.61 |
| bl64_vae, bl128_vae | base, large | 64, 128 of 16 channels | 390M | 1.25, 0.84 |
| l64_512, b128_512 | of 512 px | 64, 128 of 4,096 x 12 | 644M, 202M | 1.77, 1.52 |
| tatitok_bl32, _bl64, _bl128 | base, large | 32, 64, 128 of 8,192 x 64 | 391M | 3.95, 2.43, 1.53 |
| tatitok_bl32_vae, ... | | of 16 channels | 390M | 1.53, 1.47, 0.90 |

TA-TiTok's decoder draws beside the states that CLIP makes of a picture's caption, so its rows need
pictures with captions and CLIP's two files (docs/titok.md):

    babeldraw train --config=configs/titok.py:tatitok_bl128 --workdir=runs/tatitok_bl128 \\
        --config.data.path=laion400m --config.perceptual.file=vgg_convnext_s.safetensors \\
        --config.condition.weights=clip_text.safetensors --config.condition.words=merges.txt

The paper's stages: 64 A100 for 74 hours (L-32), 32 for 41 (B-64). What differs here: linear layers
begin by their fan-in, theirs with a deviation of 0.02. At 512 px the patch is not told in what we
read: 16 is taken, whose grid is MaskGIT's. docs/stage1.md tells how the file of the perceptual term
is made, of kind `vgg_convnext_s` for `single` and `convnext_s` for `stage2`.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

SIDES = {"s": (8, 8, 512), "b": (12, 12, 768), "l": (24, 16, 1024)}
FEW = {"kind": "vq", "codebook_size": 4096, "code_dim": 12, "code_init": "uniform"}
MANY = {"kind": "vq", "codebook_size": 8192, "code_dim": 64, "code_init": "uniform"}
MANY = MANY | {"l2_normalized": False}
CONTINUOUS = {"kind": "gaussian", "code_dim": 16}
# Encoder and decoder, latent tokens, codes; what else the section has.
ROWS = {
    "l32": ("ll", 32, FEW, {}),
    "b64": ("bb", 64, FEW, {}),
    "s128": ("ss", 128, FEW, {}),
    "bl64": ("bl", 64, MANY, {}),
    "bl128": ("bl", 128, MANY, {}),
    "sl256": ("sl", 256, MANY, {}),
    "ll32_vae": ("ll", 32, CONTINUOUS, {}),
    "bl64_vae": ("bl", 64, CONTINUOUS, {}),
    "bl128_vae": ("bl", 128, CONTINUOUS, {}),
    "l64_512": ("ll", 64, FEW, {"image_size": (512, 512)}),
    "b128_512": ("bb", 128, FEW, {"image_size": (512, 512)}),
    **{f"tatitok_bl{n}": ("bl", n, MANY, {"text": {}}) for n in (32, 64, 128)},
    **{f"tatitok_bl{n}_vae": ("bl", n, CONTINUOUS, {"text": {}}) for n in (32, 64, 128)},
}
# The three of the paper whose published weights have the slip; see `TiTokConfig.scrambled`.
SCRAMBLED = ("l32", "b64", "s128")
# Steps, batch, warm-up, second moment's decay, weight of the discriminator and its first step.
WAYS = {
    "single": (650_000, 1024, 10_000, 0.999, 0.1, 200_000),
    "stage1": (1_000_000, 256, 10_000, 0.99, 0.0, 0),
    "stage2": (500_000, 256, 5_000, 0.999, 0.01, 20_000),
}
# The network of that term and its weight.
PERCEPTUAL = {
    "single": ("vgg16_convnext_s", 1.1),
    "stage1": ("vgg16", 0.0),
    "stage2": ("convnext_s", 0.1),
}
# Pictures of a step on each of the authors' GPUs. Their schedules count a step once for each GPU,
# and the discriminator's ends by as many counts early as it starts late.
ON_A_GPU = 32
# Pictures, and pictures with captions: theirs is DataComp, of 685.8 million pairs.
DATA = {
    False: {"path": "imagenet2012", "eval_split": "validation", "crop": "window_mirrored"},
    True: {"path": "laion400m", "split": "train[1%:]", "eval_split": "train[:1%]"},
}
# Biases, norms, embeddings and whatever is learned as such: none decays.
UNDECAYED = r"bias|norm|table|^patches|^from_code"


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, a way and runlocal, with commas between them; the first where not said."""
    asked = chosen(argument, row=(*ROWS,), way=(*WAYS,))
    row, way = asked["row"], asked["way"]
    steps, batch_size, warmup, b2, adversarial, start = WAYS[way]
    judged = way != "stage1"
    optimizer = {
        "name": "adamw",
        "b1": 0.9,
        "b2": b2,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "schedule": {
            "peak": 1e-4,
            "warmup_steps": warmup,
            "decay_start": warmup,
            "decay_end": steps,
            "final_ratio": 0.1,
            "kind": "cosine",
        },
    }
    config = {
        "objective": "image_tokenizer",
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "checkpoint_every": 5000,
            "ema": {"decay": 0.999},
        },
        "data": {"source": "tfds", "workers": 64, **DATA["text" in ROWS[row][3]]},
        "tokenizer": tokenizer(row, way),
        "loss": {
            "l2": float(judged),
            "perceptual": PERCEPTUAL[way][1],
            "adversarial": adversarial,
            "restart_below": 0.001 if clustered(row) and way != "stage2" else 0.0,
        },
        "optimizer": optimizer | {"groups": ({"names": UNDECAYED, "decay": False},)},
    }
    if judged:
        config["discriminator"] = {"kind": "titok"}
        config["perceptual"] = {"network": PERCEPTUAL[way][0]}
        # The authors halve the discriminator's loss and weigh LeCam's term by 0.001.
        config["adversarial"] = {
            "loss": "hinge",
            "start_step": start,
            "r1_gamma": 0.0,
            "lecam": 0.002,
            "lecam_of_means": True,
        }
        schedule = optimizer["schedule"] | {"decay_end": steps - start // (batch_size // ON_A_GPU)}
        config["discriminator_optimizer"] = optimizer | {"schedule": schedule}
    if "text" in ROWS[row][3]:
        # All of them are told: what we read says nothing of texts that are left out.
        config["condition"] = {"kind": "clip", "dropout": 0.0}
    if way == "stage2":
        config |= {"train_groups": ("decoder",), "start_groups": ("decoder",)}
        config["loss"]["commitment"] = 0.0
    return complete(config, asked["variant"])


def clustered(row: str) -> bool:
    """Whether its codes move as CVQ-VAE's, as TA-TiTok's do."""
    return "text" in ROWS[row][3] and ROWS[row][2] is MANY


def tokenizer(row: str, way: str) -> dict:
    """The section of that name."""
    sides, tokens, quantizer, more = ROWS[row]
    encoder, decoder = map(stack, sides)
    if clustered(row):
        quantizer = MANY | {"restart_how": "clustered"}
    section = {"kind": "titok", "encoder": encoder, "decoder": decoder, "tokens": tokens}
    section |= {"quantizer": quantizer, **more}
    if way == "single":
        return section
    size = "f16_512" if "image_size" in more else "f16_256"
    proxy = load_config("maskgit_vqgan.py", __file__, size).tokenizer.to_dict()
    section |= {"proxy": proxy, "through_proxy": way == "stage2"}
    return section | {"scrambled": row in SCRAMBLED}


def stack(side: str) -> dict:
    blocks, heads, dim = SIDES[side]
    return {
        "blocks": blocks,
        "heads": heads,
        "dim": dim,
        "hidden": 4 * dim,
        "activation": "gelu_exact",
        "bias": True,
        "compute": {"dtype": "bfloat16", "remat": "hidden"},
    }
