"""The tables of grid.py, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from cells import Figures, markdown, share, with_interval


def world_rows(
    cells: Sequence[Figures], judge: str, figures: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """What is said of the cells of a world: a head, and its value of each.

    Args:
      cells: as grid.py leaves them.
      judge: the evaluator.
      figures: of it, with their heads.
    """

    def of_each(say: Any) -> list[str]:
        return [say(cell) for cell in cells]

    def speed(batch: str) -> list[str]:
        # Of one run alone, in turn: what was timed at other times is no comparison.
        return of_each(lambda c: said(c["pictures_per_second"].get(batch)))

    def said(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    rows = [("tokens", of_each(lambda cell: str(cell["tokens"])))]
    for name, head in figures.items():
        rows.append((head, of_each(lambda cell, name=name: share(cell["quality"][judge][name]))))
    return [
        *rows,
        ("pictures/s, one at a time", speed("1")),
        ("pictures/s, 16 at a time", speed("16")),
        ("GFLOP a picture", of_each(lambda c: f"{sum(c['operations'].values()) / 1e9:.2f}")),
        ("parameters, M", of_each(lambda cell: f"{cell['parameters'] / 1e6:.2f}")),
        ("steps", of_each(lambda cell: f"{cell['steps']:,}")),
        ("minutes", of_each(lambda cell: f"{cell['minutes']:.1f}")),
        ("peak GiB", of_each(lambda cell: f"{cell['peak_gib']:.2f}")),
    ]


def speed_table(found: Mapping[str, Figures], titles: Mapping[str, str]) -> str:
    """Markdown: how fast the generators of a world draw, and how many times the first one's."""
    first, rows = next(iter(found.values())), []
    for cell, figures in found.items():
        operations = [sum(one["operations"].values()) for one in (figures, first)]
        row = [titles[cell], f"{operations[0] / 1e9:.2f}", f"{operations[1] / operations[0]:.2f}"]
        for batch, speed in figures["pictures_per_second"].items():
            row += [f"{speed:.1f}", f"{speed / first['pictures_per_second'][batch]:.2f}"]
        rows.append(row)
    heads = ["in one run", "GFLOP a picture", "first one's to it"]
    batches = next(iter(found.values()))["pictures_per_second"]
    heads += [head for n in batches for head in (f"pictures/s, {n} at a time", "to the first")]
    return markdown(heads, rows)


def tokenizers_table(found: Mapping[str, Figures]) -> str:
    """Markdown: what the tokenizers of a title each have learnt."""
    rows = []
    for title, figures in found.items():
        quality = figures["quality"]["reconstruction"]
        psnr, again = quality["psnr_db"], figures.get("exact_again")
        rows.append(
            [
                title,
                with_interval(psnr, ".1f"),
                share(quality["codebook_usage"]),
                share(quality["codebook_usage_uniform"]),
                share(again) if again else "",
                f"{figures['parameters'] / 1e6:.2f}",
                f"{figures['steps']:,}",
                f"{figures['minutes']:.1f}",
            ]
        )
    heads = [
        "tokenizer",
        "PSNR, dB",
        "codes in use",
        "by uniform draws",
        "exact, encoded and decoded",
    ]
    return markdown([*heads, "parameters, M", "steps", "minutes"], rows)


def orders_table(found: Mapping[str, Figures]) -> str:
    """Markdown: by order and number of steps."""
    names = {"exact_seen": "exact, seen", "exact_unseen": "exact, unseen", "crisp_seen": "crisp"}
    rows = []
    for key, figures in found.items():
        order, _, steps = key.rpartition("_")
        rows.append([order, steps, *(share(figures[name]) for name in names)])
    return markdown(["MaskGIT's order", "steps", *names.values()], rows)


def hole_table(found: Mapping[str, Figures], titles: Mapping[str, str], what: str) -> str:
    """Markdown: by whom `what` is drawn anew, and by how much MaskGIT is better."""
    seen = all("lpips" in figures for figures in found.values())
    rows = []
    for name, figures in found.items():
        psnr, less = figures["psnr_in_hole"], figures["maskgit_less_it"]
        parameters = figures.get("parameters")
        row = [
            titles.get(name, "nothing drawn anew"),
            f"{parameters / 1e6:.2f}" if parameters else "",
            share(figures["exact"]),
            difference(less["exact"], ".1f", 100),
            with_interval(psnr, ".1f"),
        ]
        if seen:
            row += [f"{figures['lpips']['value']:.4f}", difference(less["lpips"], ".4f")]
        rows.append(row)
    heads = [what, "parameters, M", "exact", "MaskGIT's less it, points", "PSNR in the hole, dB"]
    return markdown([*heads, *(["LPIPS", "MaskGIT's less it"] if seen else [])], rows)


def difference(figure: Mapping[str, Any], form: str, times: float = 1) -> str:
    """A signed figure with its interval."""
    low, high = (times * end for end in figure["interval"])
    return f"{times * figure['value']:+{form}} [{low:+{form}}, {high:+{form}}]"
