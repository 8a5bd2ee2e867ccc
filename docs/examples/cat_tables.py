"""The tables of cat.py, in words."""

from collections.abc import Mapping
from typing import Any

import grid
from cells import Figures, markdown
from grid_tables import world_rows


def tables(found: Mapping[str, Figures]) -> str:
    """Markdown of all cells that there are."""
    parts: list[str] = []
    if "errors" in found:
        parts += [levels_table(found["errors"]), chosen_table(found["errors"])]
        parts.append(spearman_table(found["errors"]["spearman"]))
    if "captioned_errors" in found:
        own = found["captioned_errors"]
        parts += ["Trained at the captions' levels:", levels_table(own), chosen_table(own)]
    generators = {name: found[name] for name in ("dit_cat", "dit_fixed") if name in found}
    if generators:
        parts.append(generators_table(generators))
    for world, part in grid.PARTS.items():
        names = [name for name in found if name.startswith(f"{world}_") and name.endswith("_dit")]
        if names:
            cells = [found[name] for name in names]
            heads, columns = zip(
                *world_rows(cells, part.world.evaluator, part.figures), strict=True
            )
            parts.append(markdown(["", *heads], [*zip(names, *columns, strict=True)]))
    return "\n\n".join([*parts, "In brackets the interval of 95 %."]) + "\n"


def said(figure: Mapping[str, Any], digits: int = 3, sign: bool = False) -> str:
    """A figure with its interval of 95 %."""
    low, high = figure["interval"]
    value = f"{figure['value']:{'+' if sign else ''}.{digits}g}"
    return f"{value} [{low:.{digits}g}, {high:.{digits}g}]"


def levels_table(errors: Figures) -> str:
    """The error of each level, by part."""
    rows = []
    for part, levels in errors["levels"].items():
        for name, figures in levels.items():
            values = [said(figures[judge]) if judge in figures else "" for judge in JUDGES]
            rows.append([f"{part}, {name} px", str(errors["codes"][name]), *values])
    return markdown(["pictures and level", "codes", *JUDGES.values()], rows)


JUDGES = {"psnr_db": "PSNR, dB", "lpips": "LPIPS"}


def chosen_table(errors: Figures) -> str:
    """By who chooses, and by part: codes, and what is won over 16 pixels for all."""
    rows, others = [], ("same_network", "fixed")
    names = [(judge, other) for judge in JUDGES for other in others]
    for scorer, chosen in errors["chosen"].items():
        for part, figures in chosen["parts"].items():
            values = [figures.get(f"{judge}_less_{other}") for judge, other in names]
            shown = [said(value, sign=True) if value else "" for value in values]
            rows.append([f"{scorer}, {part}", f"{figures['codes']:.1f}", *shown])
    told = {"same_network": "16 px of the same network", "fixed": "the VAE of 16 px"}
    heads = [f"{JUDGES[judge]}, less {told[other]}" for judge, other in names]
    return markdown(["levels by, pictures", "codes", *heads], rows)


def spearman_table(spearman: Figures) -> str:
    """Rank correlation with the measured error, by part."""
    names = [*next(iter(spearman.values()))]
    rows = [[part, *(said(figures[name]) for name in names)] for part, figures in spearman.items()]
    return markdown(["pictures", *(name.replace("_", " ") for name in names)], rows)


def generators_table(cells: Mapping[str, Figures]) -> str:
    """Training and drawing of the generators."""
    rows = []
    for name, cell in cells.items():
        training = cell["batch_size"] / cell["step_seconds"]
        quality = cell.get("quality", {}).get("kd_alexnet")
        rows.append(
            [
                name,
                f"{cell['codes']:.1f}",
                f"{training:.1f}",
                f"{sum(cell['operations_of_training'].values()) / 1e9:.3f}",
                f"{cell['pictures_per_second']:.2f}",
                f"{cell['operations_of_drawing'] / 1e9:.2f}",
                said(quality) if quality else "",
                f"{cell['peak_gib']:.2f}",
            ]
        )
    heads = ["codes drawn", "trained pictures/s", "GFLOP trained", "drawn pictures/s"]
    return markdown(["generator", *heads, "GFLOP drawn", "KD, AlexNet", "peak GiB"], rows)
