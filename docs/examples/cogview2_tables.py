"""The tables of cogview2.py, in words, and its curves."""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cells import Figures, markdown, share, with_interval
from grid_tables import tokenizers_table

TOKENIZERS = {"shapes_tokenizer": "shapes", "emoji_hierarchy": "emoji, 64 px"}
# Of the judge of each world, and of what is told, with their heads.
DRAWN = {
    "shapes": ("prompts", {"exact_seen": "exact, seen", "exact_unseen": "exact, unseen"}),
    "emoji": (
        "concepts",
        {
            "concept_seen": "concept, seen",
            "concept_unseen": "concept, unseen",
            "style_seen": "style, seen",
            "style_unseen": "style, unseen",
        },
    ),
}
TOLD = {
    "shapes": {
        "exact_seen": "told exactly, seen",
        "exact_unseen": "told exactly, unseen",
        "grammar_seen": "of the grammar, seen",
        "grammar_unseen": "of the grammar, unseen",
    },
    "emoji": {
        "concept_seen": "concept told, seen",
        "concept_unseen": "concept told, unseen",
        "style_unseen": "style told, unseen",
        "caption_unseen": "some caption, unseen",
    },
}
NOTHING = "encoded and decoded"


def tables(found: Mapping[str, Figures]) -> str:
    """Markdown of all cells that there are."""
    parts = []
    if there := {title: found[cell] for cell, title in TOKENIZERS.items() if cell in found}:
        parts.append(tokenizers_table(there))
    for world in DRAWN:
        name = f"{world}_coglm_"
        if own := {cell.removeprefix(name): found[cell] for cell in found if name in cell}:
            parts.append(coglm_table(world, own))
    makers = {
        "lopar_speed": speed_table,
        "post_selection": selection_table,
        "clusters": ways_table,
        "text_weight": ways_table,
    }
    parts += [make(found[cell]) for cell, make in makers.items() if cell in found]
    return "\n\n".join([*parts, "In brackets the interval of 95 %."]) + "\n"


def points(figure: Mapping[str, Any]) -> str:
    """A difference of shares, in points, with its interval."""
    low, high = (100 * end for end in figure["interval"])
    return f"{100 * figure['value']:+.1f} [{low:+.1f}, {high:+.1f}]"


def cost(one: Figures) -> list[str]:
    """What a training took, for COST."""
    return [
        f"{one['parameters'] / 1e6:.2f}",
        f"{one['steps']:,}",
        f"{one['minutes']:.1f}",
        f"{one['peak_gib']:.2f}",
    ]


COST = ("parameters, M", "steps", "minutes", "peak GiB")


def cost_table(title: str, found: Mapping[str, Figures]) -> str:
    """Markdown: what trainings took, and the mean of the last fifth of their losses."""
    rows = [[name, f"{last_loss(one['losses']):.3f}", *cost(one)] for name, one in found.items()]
    return markdown([title, "loss", *COST], rows)


def last_loss(curve: Sequence[Sequence[float]]) -> float:
    """The mean of the last fifth of a curve, at least of its last point."""
    last = curve[-max(1, len(curve) // 5) :]
    return sum(value for _, value in last) / len(last)


def coglm_table(world: str, found: Mapping[str, Figures]) -> str:
    """Markdown: networks by the number of their maskings, what they draw, tell and fill in."""
    judge, drawn = DRAWN[world]
    told, holes = TOLD[world], world == "shapes"
    rows = []
    for masks, one in found.items():
        quality = one["quality"].get(judge, {})
        row = [masks, *(share(quality[name]) if name in quality else "" for name in drawn)]
        row += [share(one["captions"][name]) for name in told]
        if holes:
            filled = one["hole"]["filled"]
            row += [share(filled["exact"]), with_interval(filled["psnr_in_hole"], ".1f")]
        rows.append(row + cost(one))
    if holes:
        kept = next(iter(found.values()))["hole"][NOTHING]
        spare = [""] * (len(drawn) + len(told))
        filled = [share(kept["exact"]), with_interval(kept["psnr_in_hole"], ".1f")]
        rows.append(["nothing drawn anew", *spare, *filled, *[""] * len(COST)])
    heads = [f"{world}, maskings", *drawn.values(), *told.values()]
    heads += ["hole filled, exact", "PSNR in the hole, dB"] if holes else []
    return markdown([*heads, *COST], rows)


def speed_table(found: Figures) -> str:
    """Markdown: ways to draw so many codes, and how many times the quicker one is as quick."""
    longest = max(one["seconds"] for one in found.values())
    rows = [
        [
            name,
            f"{one['tokens']:,}",
            f"{one['passes']:,}",
            f"{one['operations'] / 1e9:.1f}",
            f"{one['seconds']:.2f}",
            f"{one['operations'] / one['seconds'] / 1e9:.1f}",
            f"{longest / one['seconds']:.2f}",
        ]
        for name, one in found.items()
    ]
    heads = ["of the same blocks", "codes", "passes", "GFLOP", "seconds", "GFLOP/s"]
    return markdown([*heads, "times as quick as the slowest"], rows)


def selection_table(found: Figures) -> str:
    """Markdown: the best of some by the perplexity of their text."""
    names = ("first", "mean", "best", "any")
    less = {"best_less_first": "best less first", "best_less_mean": "best less mean"}
    rows = [
        [
            f"{kind}, of {found['num']}",
            *(share(own[name]) for name in names),
            *(points(own[name]) for name in less),
        ]
        for kind, own in found["kinds"].items()
    ]
    heads = [*names, *(f"{head}, points" for head in less.values())]
    return markdown(["by the text's perplexity", *heads], rows)


def ways_table(found: Figures) -> str:
    """Markdown: ways to draw, and what each has more than the one it is compared with."""
    rows = []
    for name, one in found.items():
        row = [name, one["against"]]
        for kind in ("seen", "unseen"):
            row += [share(one[f"exact_{kind}"]), points(one[f"gain_{kind}"])]
        rows.append(row)
    heads = ["compared with", "exact, seen", "more, points", "exact, unseen", "more, points"]
    return markdown(["drawn", *heads], rows)


def draw_curves(found: Mapping[str, Figures], args: argparse.Namespace) -> None:
    """Losses over steps by part, and exact drawings over the weight, to WORKDIR/cogview2.png."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    trained = {cell: one for cell, one in found.items() if "curves" in one}
    figure, axes = plt.subplots(1, 4, figsize=(16, 4), layout="constrained")
    for ax, part in zip(axes, ("total", "image", "text"), strict=False):
        for cell, one in trained.items():
            if one["curves"].get(part):
                ax.plot(*zip(*one["curves"][part], strict=True), label=cell)
        ax.set(title=f"loss, {part}", xlabel="step")
    weights = found.get("text_weight", {}).values()
    for kind in ("seen", "unseen"):
        pairs = sorted(
            (math.exp(one["settings"]["text_weight"]), one[f"exact_{kind}"]["value"])
            for one in weights
        )
        if pairs:
            axes[3].plot(*zip(*pairs, strict=True), "o-", label=f"exact, {kind}")
    axes[3].set(title="attention upweighting", xlabel="times the weight of a text's columns")
    for ax in axes:
        if ax.lines:
            ax.legend(fontsize=7)
    figure.savefig(args.workdir / "cogview2.png", dpi=90)
    plt.close(figure)
