"""CogView2's iterative super-resolution (LoPAR): 60 x 60 codes drawn again in six passes.

    babeldraw train --config=configs/cogview2/iterative.py:runs/cogview2 \\
        --workdir=runs/cogview2_iterative --config.data.path=laion400m \\
        --config.tokenizer_run=runs/cogview2_tokenizer

The argument is a run of CogLM, whose weights it begins with. Without one all is fresh:

    babeldraw train --config=configs/cogview2/iterative.py --workdir=runs/cogview2_iterative \\
        --config.tokenizer_run=runs/cogview2_tokenizer --config.data.path=laion400m

Ding et al., "CogView2", 2022, and its public code: all of CogLM learns, for 20,000 steps, with one
of the shares .2, .4, .6, .8 and .9 masked; the first 16 pieces of the text, a window of 9 x 5. Its
training was never released: batch and rate here are ours. Not trained here.

    babeldraw compile --config=configs/cogview2/iterative.py --config.data.source=tokens \\
        --topology=v4:4x4x8

Estimated (docs/coglm.md): 18.9 GiB per chip of 128, 3.94 s a step, 130 images/s, MFU
0.442 (capped; raw 0.374), 0.9 days for 20,000 steps.
"""

from ml_collections import ConfigDict

from babeldraw.train.presets import complete, load_config
from babeldraw.train.tuning import into_refiner, named_run


def get_config(argument: str = "") -> ConfigDict:
    """`argument`: a run of CogLM; runlocal for a few quick steps."""
    run, variant = named_run(argument)
    config = load_config("direct.py", beside=__file__).to_dict()
    config["optimizer"]["groups"] = ()
    config |= {
        "starts": into_refiner(run),
        "condition": {**config["condition"]["parts"]["text"], "length": 16},
        "model": {"kind": "refiner", "decoder": config["model"]["decoder"], "specials": 3},
        "prediction": {"kind": "refinement"},
        "sampling": {"temperature": 1.3},
        "evaluators": {"samples": None},
    }
    return complete(config, variant)
