"""IBQ's generator, by class, and Open-MAGVIT2's, whose codes are drawn in two factors.

    babeldraw train --config=configs/ibq_generator.py --workdir=runs/ibq_b \\
        --config.tokenizer_run=runs/ibq --config.data.path=imagenet2012

Shi et al., "Scalable Image Tokenization with Index Backpropagation Quantization", 2024; Luo et al.,
"Open-MAGVIT2", 2024; the configs in their code. Not trained here. 256 px, 256 codes, of
configs/ibq.py:16384 and configs/vqgan.py:magvit2; figures of ImageNet as published:

| row | width x blocks, heads | parameters | FID | IS | guidance, temperature |
|---|---|---|---|---|---|
| b | 1024 x 16, 16 | 343.0M | 2.88 | 254.7 | 2.25, 1.10 |
| l | 1280 x 20, 20 | 649.6M | 2.45 | 267.5 | 2.0, 1.00 |
| xl | 1536 x 24, 24 | 1,076.1M | 2.14 | 279.0 | 2.35, 1.15 |
| xxl | 1920 x 30, 30 | 2,063.3M | 2.05 | 286.7 | 2.85, 1.20 |
| magvit2_b | 1024 x 24 + 2, 16 | 343.6M | 3.08 | 258.3 | 1.9, 1.0 |
| magvit2_l | 1280 x 36 + 3, 20 | 804.4M | 2.51 | 271.7 | 1.9, 1.1 |
| magvit2_xl | 1536 x 48 + 4, 24 | 1,486.7M | 2.33 | 271.8 | 1.75, 1.1 |

300 to 450 epochs of 768 pictures; of Open-MAGVIT2's rows, trained here as IBQ's of the same letter,
the schedule is not known to us. As published its second factor has a guidance (2.0, 1.9, 1.85) and
a temperature (1.0) of its own; here both are drawn as the first. Weight decay is constant here, and
a cosine from 0.05 to 0.05 or 0.08 there. docs/llamagen.md tells more, and how published weights
become a run.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

# Width, blocks, heads; guidance and temperature.
SIZES = {
    "b": ((1024, 16, 16), (2.25, 1.10)),
    "l": ((1280, 20, 20), (2.0, 1.0)),
    "xl": ((1536, 24, 24), (2.35, 1.15)),
    "xxl": ((1920, 30, 30), (2.85, 1.20)),
    "magvit2_b": ((1024, 24, 16), (1.9, 1.0)),
    "magvit2_l": ((1280, 36, 20), (1.9, 1.1)),
    "magvit2_xl": ((1536, 48, 24), (1.75, 1.1)),
}
# Epochs, those of warm-up, the share of the rate that is left, what gates begin with.
TRAINING = {
    "b": (300, 6, 0.1, 2e-5),
    "l": (350, 7, 0.1, 2e-5),
    "xl": (400, 8, 0.01, 2e-6),
    "xxl": (450, 9, 0.01, 2e-7),
}
BATCH = 768
# Steps of an epoch of ImageNet.
EPOCH = 1_281_167 / BATCH
FACTORS = (64, 4096)


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(argument, row=(*SIZES,))
    row = asked["row"]
    (dim, blocks, heads), (guidance, temperature) = SIZES[row]
    epochs, warmup, final, gates = TRAINING[row.removeprefix("magvit2_")]
    steps, warmup_steps = int(EPOCH * epochs), int(EPOCH * warmup)
    stack = {
        "heads": heads,
        "dim": dim,
        # Of SwiGLU: two thirds of four times the width, up to a multiple of 256.
        "hidden": -(-(8 * dim // 3) // 256) * 256,
        "dropout": 0.1,
        "activation": "silu",
        "compute": {"dtype": "bfloat16", "remat": "hidden"},
    }
    model = {"kind": "llama", "decoder": {"blocks": blocks, **stack}, "token_dropout": 0.1}
    if row.startswith("magvit2_"):
        tokenizer = load_config("vqgan.py", __file__, "magvit2")["tokenizer"]
        model |= {"factors": FACTORS, "intra": {"blocks": blocks // 12, **stack}}
    else:
        tokenizer = load_config("ibq.py", __file__, "16384")["tokenizer"]
        model |= {"adaptive": True, "gate_spread": gates}
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": BATCH, "checkpoint_every": 1000},
        "data": {
            "source": "tfds",
            "path": "imagenet2012",
            "eval_split": "validation",
            "workers": 64,
            "crop": "window",
        },
        "tokenizer": tokenizer,
        "condition": {"kind": "class", "num_classes": 1000, "dropout": 0.1},
        "model": model,
        "optimizer": {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.05,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 3e-4,
                "warmup_from": 0.005,
                "warmup_steps": warmup_steps,
                # Constant for a twentieth of what is left.
                "decay_start": warmup_steps + (steps - warmup_steps) // 20,
                "decay_end": steps,
                "final_ratio": final,
                "kind": "linear",
            },
        },
        "sampling": {"guidance": guidance, "temperature": temperature},
        "evaluators": {"samples": {"num": 10, "each": 8}},
    }
    if row == "xxl":
        # Whole copies of its weights and moments are too much for a chip of 32.
        config["mesh"] = {"stage": 16, "rules": "fsdp_hybrid"}
    made = complete(config, asked["variant"])
    if asked["variant"] and made.tokenizer.quantizer.kind == "lfq":
        small = made.to_dict()
        # Of the small tokenizer's 256 codes.
        small["model"] |= {"factors": (4, 64), "intra": small["model"]["decoder"] | {"blocks": 1}}
        made = complete(small)
    return made
