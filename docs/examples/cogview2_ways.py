"""Cells of cogview2.py: ways of a trained CogLM of shapes to draw, and to choose among drawings."""

import argparse
import math

from cells import Figures, few
from cogview2_measures import compared, selected

from babeldraw.commands.clusters import find_clusters
from babeldraw.drawing.sampler import Sampler

# Of each kind.
PROMPTS = 256
NUM = 8
# Of 1,024 codes; CogView2 has 40 codes to a cluster.
CLUSTERS = 32
# What CogView2 adds to logits, and about it, beside factors of the weights from 1 to 2.
ADDED = (1.0, 1.4, 2.0)
FACTORS = (1.0, 1.25, 1.5, 1.75, 2.0)


def post_selection(run: str, args: argparse.Namespace) -> Figures:
    """The best of NUM by the run's own perplexity of the text."""
    sampler = Sampler.from_run(run, judge=run)
    return {"num": NUM, "kinds": selected(sampler, NUM, few(PROMPTS, args))}


def clusters(run: str, args: argparse.Namespace) -> Figures:
    """At the run's temperature, and at 1, where what is unlikely is drawn more often.

    Clusters are compared with as many codes as these have in the mean, codes with all of them.
    """
    count = 4 if args.quick else CLUSTERS
    labels = find_clusters(run, count)
    sampler, ways, against = Sampler.from_run(run), {}, {}
    for temperature in dict.fromkeys((sampler.defaults.temperature, 1.0)):
        at, own = f"temperature {temperature}", {"temperature": temperature}
        of_all = f"{at}, of all codes"
        ways[of_all], against[of_all] = own, of_all
        for most in (1, 3) if args.quick else (2, 4, 16):
            codes = most * len(labels) // count
            by_codes = f"{at}, the likeliest {codes} codes"
            by_clusters = f"{at}, the likeliest {most} of {count} clusters"
            ways[by_codes], against[by_codes] = {**own, "top_k": codes}, of_all
            of_clusters = {**own, "clusters": most, "cluster_temperature": temperature}
            ways[by_clusters], against[by_clusters] = of_clusters, by_codes
    return compared(sampler, ways, few(PROMPTS, args), against)


def text_weight(run: str, args: argparse.Namespace) -> Figures:
    """What is added is the logarithm of a factor of the weights before these are normalised."""
    ways = {f"{factor} times": {"text_weight": math.log(factor)} for factor in FACTORS}
    ways |= {f"added {added}": {"text_weight": added} for added in ADDED}
    return compared(Sampler.from_run(run), ways, few(PROMPTS, args))
