"""Encoder-decoder against decoder-only: equal data, steps, seeds and number of parameters.

    python docs/examples/decoder_only.py --tokenizer_run=runs/demo/tokenizer \\
        --workdir=runs/decoder_only

trains configs/demo/text_to_image.py and configs/demo/decoder_only.py from each of several seeds and
writes figures.json: parameters, loss on held-out pictures, share of the prompts drawn exactly. A
finished run is left alone, a stopped one goes on.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from babeldraw.runs.folder import write_json
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.overview import count
from babeldraw.train.presets import load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = {"encoder_decoder": "text_to_image.py", "decoder_only": "decoder_only.py"}
FIGURES = ("validation/loss", "prompts/exact_seen", "prompts/exact_unseen", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="where all goes")
    parser.add_argument("--tokenizer_run", required=True, help="of configs/demo/tokenizer.py")
    parser.add_argument("--steps", type=int, default=2800, help="of each run")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--prompts", type=int, default=256, help="prompts drawn, of each split")
    args = parser.parse_args()
    figures: dict[str, dict] = {}
    # Seeds outside: whenever it is stopped, both kinds have been trained from as many.
    for seed in range(args.seeds):
        for kind, file in KINDS.items():
            config = configure(file, args, seed)
            objective = parse(config).make_objective()
            params = jax.eval_shape(objective.init, jax.random.key(0)).params
            report = train(config, str(args.workdir / f"{kind}_{seed}"), f"{kind}, seed {seed}")
            row = figures.setdefault(kind, {"parameters": count(params), "seeds": []})
            row["seeds"].append({name: report[name] for name in FIGURES})
            write_json(args.workdir / "figures.json", {"steps": args.steps, **summarise(figures)})
    print(json.dumps(summarise(figures), indent=2))


def configure(file: str, args: argparse.Namespace, seed: int):
    """One run's config; nothing is evaluated before its end."""
    config = load_config(file, ROOT / "configs" / "demo" / "README")
    config.tokenizer_run = args.tokenizer_run
    config.train.seed = seed
    config.train.eval_every = 0
    config.train.steps = config.optimizer.schedule.decay_end = args.steps
    warmup = min(200, args.steps // 5)
    config.optimizer.schedule.warmup_steps = config.optimizer.schedule.decay_start = warmup
    config.evaluators.prompts.num_prompts = args.prompts
    return config


def summarise(figures: dict[str, dict]) -> dict[str, dict]:
    """Means and standard deviations over seeds beside the figures of each."""
    found = {}
    for kind, row in figures.items():
        values = {name: [seed[name] for seed in row["seeds"]] for name in FIGURES}
        means = {name: float(np.mean(v)) for name, v in values.items()}
        spread = {
            name: float(np.std(v, ddof=1)) if len(v) > 1 else None for name, v in values.items()
        }
        found[kind] = {**row, "mean": means, "deviation": spread}
    return found


if __name__ == "__main__":
    main()
