"""The report on a compiled step as lines of text; two of them side by side."""

from collections.abc import Mapping
from typing import Any

from babeldraw.commands.compile_train import Report

ACCURACY = (
    "estimate: of large dense steps within about 8 % in an earlier study (docs/compile.md); "
    "contention for memory and the latency of links are left out"
)
# What helps a step that is too large: what it is, and whether a config has it already.
_OPTIONS = (
    ("--config.mesh.zero1=true", lambda mesh: mesh["zero1"] or mesh["rules"] == "fsdp"),
    ("--config.mesh.rules=fsdp", lambda mesh: mesh["rules"] == "fsdp"),
    ("remat=full in config.model.encoder.compute and .decoder.compute", lambda mesh: False),
    ("a larger --config.train.accumulation", lambda mesh: False),
    ("more data groups, or a smaller batch", lambda mesh: False),
)


def describe(report: Report) -> str:
    """The report as lines of text."""
    mesh = " x ".join(f"{axis} {report.mesh[axis]}" for axis in ("data", "stage", "model"))
    rules = report.mesh["rules"] + (", zero1" if report.mesh["zero1"] else "")
    slices = f"{report.slices} slices of " if report.slices > 1 else ""
    chips = "chip" if report.chips == 1 else "chips"
    lines = [
        f"{slices}{report.topology}, {report.chips:,} {chips}: {mesh}; {rules}; batch "
        f"{report.batch_size:,}; compiled in {report.compile_seconds:.0f} s",
        "parameters: "
        + ", ".join(f"{part} {number / 1e6:,.1f}M" for part, number in report.parameters.items()),
        *_memory(report),
        *_pipeline(report),
    ]
    if report.fits:
        lines += [*_work(report), *_time(report), *_communication(report), *report.notes, ACCURACY]
    return "\n".join(lines)


def _memory(report: Report) -> list[str]:
    memory = report.hbm_gib
    verdict = "fits" if report.fits else "does NOT fit"
    if report.fits and memory["peak"] > memory["limit"]:
        verdict = "the compiler takes it, which is not to be relied on: too near the limit"
    lines = [f"HBM per chip: {memory['peak']:.2f} GiB of {memory['limit']:.2f}, {verdict}"]
    if report.fits:
        shown = f"  state and batch {memory['arguments']:.2f}"
        shown += f", temporaries {memory['temporaries']:.2f}; in use at once {memory['live']:.2f}"
        return [*lines, shown]
    lines += [f"  {entry}" for entry in report.largest]
    helps = [option for option, has in _OPTIONS if not has(report.mesh)]
    return [*lines, f"  what helps: {'; '.join(helps)}"]


def _pipeline(report: Report) -> list[str]:
    return [
        f"{path}: {schedule['stages']} stages, rounds {schedule['rounds']}, microbatches "
        f"{schedule['microbatches']}, iterations {schedule['iterations']}, bubble "
        f"{schedule['bubble']:.1%}"
        for path, schedule in report.pipeline.items()
    ]


def _work(report: Report) -> list[str]:
    flops = report.flops
    unit, one = ("TFLOP", 1e12) if flops["executed"] >= 1e11 else ("GFLOP", 1e9)
    lines = []
    if "model" in flops:
        lines = [f"model: {flops['model'] / one:,.1f} {unit} per chip and step; per example:"]
        width = max(map(len, flops["parts"]))
        lines += [
            f"  {part:<{width}} {number / one:8.3f} {unit} = {flops['formula'][part]}"
            for part, number in flops["parts"].items()
        ]
    executed = f"executed: {flops['executed'] / one:,.1f} {unit}"
    if flops.get("model"):
        executed += f", {flops['executed'] / flops['model']:.2f} times the model's"
    again = flops["rematerialized"] / max(flops["executed"], 1)
    return [*lines, f"{executed}; {again:.1%} of it computed again"]


def _time(report: Report) -> list[str]:
    unit, one = _seconds(report)
    lines = []
    for name, meaning in (
        ("raw", "the compiler's cycles as they are"),
        ("capped", "element-wise work at bandwidth"),
    ):
        mfu = f", MFU {report.mfu[name]:.3f}" if name in report.mfu else ""
        seconds = report.step_seconds[name] / one
        lines.append(f"estimated step, {name} ({meaning}): {seconds:.3f} {unit}{mfu}")
    parts = sorted(report.seconds_by_part.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{part} {seconds / one:.3f} {unit}" for part, seconds in parts)
    lines.append(f"  of it: {shown}")
    lines += [
        f"  {seconds / one:8.3f} {unit}  {scope}"
        for scope, seconds in report.seconds_by_scope.items()
    ]
    if report.mode == "decode":
        each, floor = report.step_seconds["capped"] / report.tokens, report.floor_seconds
        lines.append(
            f"by the capped figure: {1e3 * each:.2f} ms per step, "
            f"{each / floor:.2f} times the floor of {1e3 * floor:.2f} ms that reading the weights "
            f"and caches takes; {report.examples_per_second:,.2f} images/s"
        )
        return lines
    lines.append(
        f"by the capped figure: {report.examples_per_second:,.0f} images/s, {report.days:.1f} days"
        " for the config's steps"
    )
    return lines


def _seconds(report: Report) -> tuple[str, float]:
    """The unit in which a step's parts are read easily: its name, and its length in seconds."""
    return ("s", 1.0) if report.step_seconds["capped"] >= 0.1 else ("ms", 1e-3)


def _communication(report: Report) -> list[str]:
    if not report.collectives:
        return []
    unit, one = _seconds(report)
    total = sum(found["exposed"] for found in report.collectives.values())
    share = total / report.step_seconds["capped"]
    lines = [f"communication per chip and step, {share:.1%} of the time exposed:"]
    for kind, found in report.collectives.items():
        lines.append(
            f"  {kind:<18} {found['count']:>6} x, {found['bytes'] / 1e9:8.2f} GB, "
            f"{found['seconds'] / one:.3f} {unit} on links, "
            f"{found['exposed'] / one:.3f} {unit} exposed"
        )
    return lines


def compare(names: tuple[str, str], reports: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str:
    """Two reports' figures side by side, with the ratio of the second to the first.

    Args:
      names: what to call them.
      reports: as the command's `--json` wrote them.
    """
    rows = [("", *names, "ratio")]
    left, right = (_numbers(report) for report in reports)
    for key in [*left, *(key for key in right if key not in left)]:
        one, other = left.get(key), right.get(key)
        ratio = f"{other / one:.3f}" if one and other is not None else ""
        rows.append((key, _shown(one), _shown(other), ratio))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}".rstrip()
        for a, b, c, d in rows
    )


def _numbers(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a report by dotted name, but for the lists of parts."""
    found = {}
    for key, value in report.items():
        if isinstance(value, Mapping) and key not in ("parameters", "parts", "formula"):
            found |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = value
    return found


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
