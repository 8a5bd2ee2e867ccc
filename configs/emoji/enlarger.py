"""Direct super-resolution on emoji: 8 x 8 codes to 24 x 24 of one codebook, 64 px to 192 px.

    babeldraw train --config=configs/emoji/enlarger.py:runs/emoji_coglm \\
        --workdir=runs/emoji_enlarger --config.data.path=data/emoji_192

The argument is a run of CogLM on configs/emoji/hierarchy.py, level 8 or 4: its sizes and weights
are taken, the projections of its attention twice, and it does not change (CogView2,
configs/cogview2/direct.py). Without an argument all is fresh and all of it learns:

    babeldraw train --config=configs/emoji/enlarger.py --workdir=runs/emoji_enlarger \\
        --config.data.path=data/emoji_192 --config.tokenizer_run=runs/emoji_hierarchy

How well a small one does: docs/super_resolution.md.
"""

from typing import Any

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import LOCAL, config_of, into_enlarger, named_run

# All but the large codes' own projections and positions.
BASE = r"^(?!.*\bfine\b)"


def toy() -> ConfigDict:
    return load_config("coglm.py", __file__, "hierarchy")


def base_of(run: str) -> dict[str, Any]:
    """Sections of a run of CogLM; without one those of a toy on the hierarchy."""
    return config_of(run, "generator", toy, network="coglm")


def from_base(base: dict[str, Any], kind: str, **more: Any) -> dict[str, Any]:
    """The section `model` of a network that begins from a run of CogLM."""
    names = ("decoder", "start", "positions", "specials", "stddev")
    return {"kind": kind, **{n: base["model"][n] for n in names if n in base["model"]}, **more}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a run of CogLM; runlocal for a few quick steps."""
    run, word = named_run(argument)
    base = base_of(run)
    optimizer = dict(base["optimizer"])
    if run:
        optimizer["groups"] = ({"names": BASE, "rate": 0.0},)
    text = {**base["condition"], "dropout": 0.0}
    stored = base["data"]["source"] == "tokens"
    config = {
        **base,
        # Stored codes are of the small level alone, and both are read of a picture.
        "data": toy().data.to_dict() if stored else base["data"],
        "level": f"{base['level']}x3",
        "starts": into_enlarger(run),
        "condition": {
            "kind": "several",
            "dropout": 0.0,
            "parts": {"text": text, "codes": {"kind": "codes", "level": base["level"]}},
        },
        "model": from_base(base, "enlarger", frozen_base=bool(run)),
        # All codes at once, each by itself.
        "prediction": {"kind": "refinement", "tile": ((1,),), "ratios": (1.0,)},
        "sampling": {"temperature": 1.0, "top_ks": "100"},
        "optimizer": optimizer,
        "evaluators": {"validation_loss": base["evaluators"]["validation_loss"], "samples": None},
    }
    return complete(config, LOCAL if word == LOCAL else "")
