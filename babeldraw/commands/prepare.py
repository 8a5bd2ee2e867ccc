"""Turns pictures and captions into training shards, with Apache Beam; goes on where it stopped.

Damaged records, those that the options refuse and duplicates are left out; the manifest counts them
by reason and rejected-*.jsonl names each. Training reads the shards with
--config.data.source=shards and --config.data.path=DIR.

Example:
  babeldraw prepare --path=my_pictures --out=my_shards --workers=2
"""

import dataclasses
from typing import Any

from absl import flags

from babeldraw.commands.flags import as_flags, required
from babeldraw.data.prepare.beam import EMBEDDED, prepare
from babeldraw.data.prepare.examples import Options
from babeldraw.data.prepare.fetch import Fetch
from babeldraw.data.prepare.inputs import KINDS, open_input
from babeldraw.errors import UserError
from babeldraw.say import ProgressReport, say

OPTION_HELP = {
    "side": "The shorter side of a stored picture is at most this, in pixels.",
    "quality": "Of the JPEG files, 1 to 100.",
    "min_side": "Refuses pictures whose shorter side has fewer pixels.",
    "max_aspect": "Refuses pictures whose longer side is more than this many times the shorter.",
    "max_bytes": "Refuses picture files of more bytes.",
    "min_caption": "Characters that a caption has at least; 0 keeps pictures without caption.",
    "max_caption": "Characters that a caption has at most.",
    "max_nontext": "Share of a caption's characters that are no letters, at most.",
    "duplicates": "Of equal pictures keeps the first (picture), one for each caption (pair), or "
    "all (keep).",
    "near_duplicates": "Pictures whose 64-bit difference hashes differ in so many bits at most "
    "count as equal; -1: off.",
}
DEFINERS: dict[type, Any] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("source", "folder", f"{', '.join(KINDS)}.", flag_values=values)
    flags.DEFINE_string("path", None, "Where the data lie.", flag_values=values)
    flags.DEFINE_string(
        "split", "", "SUBFOLDER/ of a folder, or a split of TFDS (train).", flag_values=values
    )
    flags.DEFINE_string("data_dir", "", "Where TFDS keeps prepared data.", flag_values=values)
    flags.DEFINE_string(
        "language", "", "Of a folder's captions with translations: fr, any.", flag_values=values
    )
    flags.DEFINE_boolean("fetch", False, "Fetches the URLs of a list.", flag_values=values)
    flags.DEFINE_list(
        "fetch_hosts", [], "Hosts that may be asked; * for any public one.", flag_values=values
    )
    flags.DEFINE_float("fetch_seconds", 10.0, "For one picture.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)
    flags.DEFINE_integer("shard_size", 1024, "Records read per shard.", flag_values=values)
    flags.DEFINE_float(
        "max_bad_share", 0.05, "Stops when more of the records are damaged.", flag_values=values
    )
    flags.DEFINE_integer("workers", 1, f"Processes of the {EMBEDDED}.", flag_values=values)
    flags.DEFINE_string(
        "runner", EMBEDDED, "Of Beam: DataflowRunner, FlinkRunner, SparkRunner.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "beam", [], "An option of that runner: --beam=--project=mine.", flag_values=values
    )
    for field in dataclasses.fields(Options):
        define_flag = DEFINERS[type(field.default)]
        define_flag(field.name, field.default, OPTION_HELP[field.name], flag_values=values)


def run(values: flags.FlagValues) -> int:
    path, out = required(values, "path"), required(values, "out")
    for name, least in (("shard_size", 1), ("workers", 1)):
        if values[name].value < least:
            raise UserError(f"--{name} is {values[name].value}; at least {least} is needed")
    if not 0 <= values.max_bad_share <= 1:
        raise UserError(f"--max_bad_share={values.max_bad_share} must lie between 0 and 1")
    with as_flags(_flags()):
        return _run(values, path, out)


def _flags() -> dict[str, str]:
    """The library's arguments and the flags that they come from."""
    same = ("path", "split", "data_dir", "language", "out", "fetch", "max_bad_share")
    own = {name: name for name in (*same, *(f.name for f in dataclasses.fields(Options)))}
    return {**own, "kind": "source", "fetch.hosts": "fetch_hosts", "fetch.seconds": "fetch_seconds"}


def _run(values: flags.FlagValues, path: str, out: str) -> int:
    options = Options(**{f.name: values[f.name].value for f in dataclasses.fields(Options)})
    fetch = Fetch(tuple(values.fetch_hosts), values.fetch_seconds) if values.fetch else None
    reports: list[ProgressReport] = []

    def progress(done: int, total: int) -> None:
        if not reports:
            reports.append(ProgressReport("prepare", total, start=done, unit="pieces"))
        reports[0].update(done)

    manifest = prepare(
        open_input(values.source, path, values.split, values.data_dir, fetch, values.language),
        options,
        out,
        shard_size=values.shard_size,
        max_bad_share=values.max_bad_share,
        runner=values.runner,
        workers=values.workers,
        beam_options=values.beam,
        progress=progress,
    )
    for report in reports:
        report.close()
    say(f"{manifest['count']} of {manifest['records']} records in {len(manifest['shards'])} shards")
    for reason, count in manifest["rejected"].items():
        say(f"  {count:>8} left out: {reason}, the first {manifest['first'][reason][0]}")
    say(f"{out}: train with --config.data.source=shards --config.data.path={out}")
    return 0
