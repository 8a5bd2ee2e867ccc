"""CogLM, CogView2's model of 6 billion parameters: text to image, image to text, and fill in.

    babeldraw train --config=configs/coglm.py --workdir=runs/coglm \\
        --config.tokenizer_run=runs/cogview2_tokenizer --config.data.path=tokens

Argument: 6b, the only row.

Ding et al., "CogView2: Faster and Better Text-to-Image Generation via Hierarchical Transformers",
2022, and its code; not trained here. 48 blocks of width 3,072; 111 pieces of a text, a start and
20 x 20 codes of 20,000 at 8 pixels to a code; 130,000 pieces; batches of 4,096, 300,000 steps.
Weight decay, rate and warm-up are not published: 1e-4 and 5,000 steps are ours.

| row | parameters | FID on COCO, zero-shot | fine-tuned |
|---|---|---|---|
| 6b | 5.90B | 24.0 | 17.5 |

    babeldraw compile --config=configs/coglm.py --topology=v4:4x4x8

Estimated (docs/coglm.md): 23.9 GiB per chip of 128, 4.05 s a step, 1,011 images/s, MFU 0.533
(capped; raw 0.462), 14.1 days for 300,000 steps.

The figures are the article's, of the whole cascade to 480 pixels. docs/coglm.md tells how the
published weights are imported, and of icetk's text model, `condition.words`.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import chosen, complete, load_config

ROWS = {"6b": {"blocks": 48, "heads": 48, "dim": 3072, "hidden": 12288}}
TOKENIZER = load_config("cogview2/tokenizer.py", beside=__file__).to_dict()


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: a row, the first if empty; and runlocal for a few quick steps of it."""
    asked = chosen(variant, row=(*ROWS,))
    steps = 300_000
    config = {
        "objective": "generator",
        "train": {"steps": steps, "batch_size": 4096, "checkpoint_every": 1000},
        "data": {"source": "tokens"},
        "tokenizer": TOKENIZER["tokenizer"],
        "level": "8",
        "condition": {"kind": "text", "vocab_size": 130_000, "length": 111, "dropout": 0.0},
        "model": {
            "kind": "coglm",
            "decoder": {
                **ROWS[asked["row"]],
                "activation": "gelu",
                "bias": True,
                "compute": {"dtype": "bfloat16", "remat": "context"},
            },
            "specials": 3,
            # 150,003 rows, in pieces of 7,143.
            "compute": {"pieces": 21},
        },
        "prediction": {"kind": "coglm"},
        "sampling": {"temperature": 1.15, "text_weight": 1.4},
        "optimizer": {
            "name": "adamw",
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "schedule": {
                "peak": 1e-4,
                "warmup_steps": 5_000,
                "decay_start": 5_000,
                "decay_end": steps,
                "final_ratio": 0.1,
                "kind": "cosine",
            },
        },
        # Weights split over 16 chips, whole copies of these over the others.
        "mesh": {"stage": 16, "rules": "fsdp_hybrid"},
        "evaluators": {"samples": {"num": 8}},
    }
    return complete(config, asked["variant"])
