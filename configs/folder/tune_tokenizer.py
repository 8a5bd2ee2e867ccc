"""A trained tokenizer goes on with a folder of your own pictures: docs/tuning.md.

    babeldraw train --config=configs/folder/tune_tokenizer.py:runs/my_tokenizer \\
        --workdir=runs/tuned_tokenizer --config.data.path=my_pictures

The argument is the run to begin from, whose network and losses are taken, and its weights, bit for
bit. Without one the sizes are those of tokenizer.py:

    babeldraw train --config=configs/folder/tune_tokenizer.py --workdir=runs/tuned_tokenizer \\
        --config.data.path=my_pictures --config.tokenizer_run=runs/my_tokenizer

All parts learn, so codes change and a generator of the old ones cannot use them. With `,decoder`
behind the run the decoder alone learns, which gives a generator of the old codes better pictures
(`sample --tokenizer_run=runs/tuned_tokenizer`). Of a run that trained its decoder alone, such as
TiTok's second stage, the decoder alone learns on; with `,all` behind it all parts do, the codes by
the usual commitment where that run had none.

The discriminator of the run goes on too, and the adversarial term is on from the first step where
it was on. One that has not learned, or that an import does not have, begins afresh: it learns alone
for a quarter of the steps (`--config.adversarial.head_start`), then the term comes on.
"""

from ml_collections import ConfigDict

from babeldraw.objectives.image_tokenizer import TokenizerLossConfig
from babeldraw.tokenizers.base import PARTS
from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import (
    LOCAL,
    adversary,
    config_of,
    named_run,
    parts_learning,
    slower,
)

# Of the run's own peak.
SHARE, STEPS, BATCH = 0.2, 1000, 32
# What may stand behind the run, and the parts that then learn.
WORDS = {"decoder": ("decoder",), "all": PARTS}


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a tokenizer's run, or RUN,WORD of `WORDS`; runlocal for a few quick steps."""
    run, word = named_run(argument, *WORDS)
    base = config_of(run, "image_tokenizer", lambda: load_config("tokenizer.py", beside=__file__))
    kept = ("objective", "tokenizer", "proxy_run", "discriminator", "perceptual")
    parts = parts_learning(run, base, WORDS.get(word, ()))
    config = {
        **{name: base[name] for name in kept},
        **adversary(run, base, STEPS, SHARE),
        "loss": loss_of(base, parts),
        "train_groups": parts,
        "start_groups": parts,
        "tokenizer_run": run,
        "train": {
            "steps": STEPS,
            "batch_size": BATCH,
            "checkpoint_every": 250,
            "eval_every": 250,
            "ema": base["train"]["ema"],
        },
        "data": {"source": "folder", "crop": base["data"]["crop"]},
        "optimizer": slower(base["optimizer"], STEPS, SHARE),
        "evaluators": {"reconstruction": {"num_examples": 256, "batch_size": 64}},
    }
    return complete(config, LOCAL if word == LOCAL else "")


def loss_of(base: dict, parts: tuple[str, ...]) -> dict:
    """The run's, but for codes that are to stay, or to learn again."""
    loss, before = dict(base["loss"]), base["train_groups"]
    if "quantizer" not in parts:
        # Codes that are kept are not moved either.
        loss["restart_below"] = 0.0
    elif "quantizer" not in before and loss["commitment"] == 0:
        loss["commitment"] = TokenizerLossConfig().commitment
    return loss
