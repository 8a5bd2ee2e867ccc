"""CogView2's direct super-resolution: 20 x 20 codes to 60 x 60 in one pass, on a frozen CogLM.

    babeldraw train --config=configs/cogview2/direct.py:runs/cogview2 \\
        --workdir=runs/cogview2_direct --config.data.path=laion400m \\
        --config.tokenizer_run=runs/cogview2_tokenizer

The argument is a run of CogLM, whose weights it begins with. Without one all of it is random, and
all but the large codes' own stays so unless it learns too:

    babeldraw train --config=configs/cogview2/direct.py --workdir=runs/cogview2_direct \\
        --config.tokenizer_run=runs/cogview2_tokenizer --config.data.path=laion400m \\
        --config.model.frozen_base=False --config.optimizer.groups="()"

Ding et al., "CogView2", 2022, and its public code: 48 blocks of 3,072, projections of attention of
the large codes' own (1.81B beside the base's), 96 pieces of text, windows of 5 x 5 of the small
grid and 9 x 5 of the large one; pictures of at least 480 px. Codes are drawn from the 100 likeliest
of 500 clusters, which `babeldraw clusters` finds in CogLM's run or in this one. Its training was
never released: batch and rate here are ours. Not trained here.

    babeldraw compile --config=configs/cogview2/direct.py --topology=v4:4x4x8

Estimated (docs/coglm.md): 18.7 GiB per chip of 128, 3.95 s a step, 130 images/s, MFU
0.506 (capped; raw 0.428) counted as if the base learned, 0.9 days for 20,000 steps.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import into_enlarger, named_run

BASE = load_config("../babeldraw/3b.py", beside=__file__)
TOKENIZER = load_config("tokenizer.py", beside=__file__)
DECODER = {
    "blocks": 48,
    "heads": 48,
    "dim": 3072,
    "hidden": 12_288,
    "activation": "gelu",
    "bias": True,
    "compute": {"dtype": "bfloat16", "remat": "context"},
}
# Of the iterative stage, and the number of the released direct one's file.
STEPS = 20_000
TEXT = {"kind": "text", "vocab_size": 130_000, "length": 96, "dropout": 0.0}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a run of CogLM; runlocal for a few quick steps."""
    run, variant = named_run(argument)
    config = BASE.to_dict()
    config["train"] |= {"steps": STEPS, "batch_size": 512, "accumulation": 1}
    config["optimizer"]["schedule"] = {
        "warmup_steps": 1000,
        "decay_start": 1000,
        "decay_end": STEPS,
        "kind": "cosine",
    }
    # Weights split over 16 chips, whole copies of these over the others.
    config["mesh"] = {"stage": 16, "rules": "fsdp_hybrid"}
    config["optimizer"]["groups"] = ({"names": r"^(?!.*\bfine\b)", "rate": 0.0},)
    config |= {
        "tokenizer": TOKENIZER.to_dict()["tokenizer"],
        "level": "8x3",
        "starts": into_enlarger(run),
        "condition": {
            "kind": "several",
            "dropout": 0.0,
            "parts": {"text": TEXT, "codes": {"kind": "codes", "level": "8"}},
        },
        "model": {"kind": "enlarger", "decoder": DECODER, "specials": 3},
        "prediction": {"kind": "refinement", "tile": ((1,),), "ratios": (1.0,)},
        "sampling": {
            "temperature": 1.5,
            "top_ks": "0",
            "clusters": 100,
            "cluster_temperature": 0.89,
        },
        "evaluators": {"samples": None},
    }
    return complete(config, variant)
