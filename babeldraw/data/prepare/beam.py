"""All pieces of the data through Apache Beam, duplicates found across them, and the manifest."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from etils import epath

from babeldraw.config import require
from babeldraw.data.image import write_whole
from babeldraw.data.prepare.examples import BAD_REASONS, MAX_DISTANCE, Options
from babeldraw.data.prepare.inputs import Input, Piece
from babeldraw.data.prepare.work import WORK, Work, make_part, make_shard
from babeldraw.data.shards import MANIFEST
from babeldraw.errors import UserError

PLAN = "plan.json"
HASH_BITS = 64
EMBEDDED = "DirectRunner"
WATCH_SECONDS = 2.0


def apache_beam() -> ModuleType:
    """Apache Beam, imported on the first call.

    Raises:
        UserError: it is not installed.
    """
    # It reports at length what it does, and what of Google's cloud is not installed.
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import apache_beam as beam
    except ImportError as error:
        raise UserError(
            f"preparing data needs Apache Beam ({error}); pip install 'babeldraw[prepare]'"
        ) from error
    finally:
        logging.disable(before)
    return beam


def prepare(
    source: Input,
    options: Options,
    out: str,
    *,
    shard_size: int = 1024,
    max_bad_share: float = 0.05,
    runner: str = EMBEDDED,
    workers: int = 1,
    beam_options: Iterable[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Prepares data, or goes on where a killed run stopped.

    Args:
        source: the data.
        options: what is wanted of them.
        out: the folder to write, local or on a path etils knows, seen by every worker.
        shard_size: records in a piece, which becomes a shard.
        max_bad_share: with more damaged records than this share the manifest stays incomplete.
        runner: of Beam; 'DirectRunner' is the one embedded in Beam for Python.
        workers: processes of the embedded runner.
        beam_options: such as '--project=mine', for other runners.
        progress: told now and then how many pieces of how many were read.

    Returns:
        The manifest.

    Raises:
        UserError: nothing to read, a folder that holds other data, too many damaged records, or
            no Beam.
    """
    apache_beam()
    pieces = source.pieces(shard_size)
    require(bool(pieces), f"{source.name} holds no records")
    work = Work(source, options, out, len(pieces))
    finished = _claim(work, pieces, shard_size)
    if finished is not None:
        return finished
    with _watched(work, progress):
        _run(work, pieces, _pipeline_options(runner, workers, beam_options), runner)
    manifest = _manifest(work, pieces, shard_size)
    bad = sum(manifest["rejected"].get(reason, 0) for reason in BAD_REASONS)
    if bad > max_bad_share * manifest["records"]:
        first = next(manifest["first"][r] for r in BAD_REASONS if r in manifest["first"])
        raise UserError(
            f"{bad} of {manifest['records']} records are damaged ({bad / manifest['records']:.1%}) "
            f"where max_bad_share={max_bad_share}; mend the data or raise the share and run "
            f"again, which goes on from here; the first: {': '.join(first)}"
        )
    if not manifest["count"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in manifest["rejected"].items())
        raise UserError(
            f"none of the {manifest['records']} records of {source.name} is left: {reasons}; see "
            "`babeldraw prepare --help` for what refuses them, and give another out"
        )
    _finish(work, manifest)
    return manifest


# ------------------------------------------------------------------ the folder


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plan(work: Work, pieces: list[Piece], shard_size: int) -> dict[str, Any]:
    return {
        "name": work.source.name,
        "options": dataclasses.asdict(work.options),
        "shard_size": shard_size,
        "pieces": _digest(pieces),
    }


def _claim(work: Work, pieces: list[Piece], shard_size: int) -> dict[str, Any] | None:
    """Says whose work the folder holds; gives the manifest where all of it is done."""
    out, plan = epath.Path(work.out), _plan(work, pieces, shard_size)
    done, begun = out / MANIFEST, out / WORK / PLAN
    for path in (done, begun):
        if not path.exists():
            continue
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = None
        _check_same(out, before, plan)
        return before if path == done else None
    if out.exists() and any(path.name != WORK for path in out.iterdir()):
        raise UserError(f"out={out} is not empty and holds no {MANIFEST}; give another out")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    write_whole(begun, json.dumps(plan).encode())
    return None


def _check_same(out: epath.Path, before: Any, plan: dict[str, Any]) -> None:
    if not isinstance(before, dict) or not isinstance(before.get("options"), dict):
        raise UserError(f"out={out} holds a file that is not ours; give another out")
    for name, now in {**plan["options"], **plan}.items():
        then = before["options"][name] if name in plan["options"] else before.get(name)
        if then != now:
            what = "other files" if name == "pieces" else f"{name} {then!r}, not {now!r}"
            raise UserError(f"out={out} was begun with {what}; give another out")


def _manifest(work: Work, pieces: list[Piece], shard_size: int) -> dict[str, Any]:
    """Counts, options and shards, from what each piece says of itself."""
    plan = _plan(work, pieces, shard_size)
    results = [json.loads(work.shard_entry(i).read_text()) for i in range(work.pieces)]
    rejected: dict[str, int] = {}
    first: dict[str, list[str]] = {}
    for result in results:
        for reason, count in result["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + count
            first.setdefault(reason, result["first"][reason])
    shards = [result["shard"] for result in results if result["shard"] is not None]
    highest = max(result["highest_label"] for result in results)
    classes = list(work.source.classes) or [str(number) for number in range(highest + 1)]
    files = [work.rejected_name(i) for i, result in enumerate(results) if result["rejected"]]
    return {
        **plan,
        "digest": _digest([plan, shards]),
        "records": sum(result["read"] for result in results),
        "count": sum(shard["count"] for shard in shards),
        "bad": sum(rejected.get(reason, 0) for reason in BAD_REASONS),
        "rejected": dict(sorted(rejected.items())),
        "first": dict(sorted(first.items())),
        "rejected_files": files,
        "classes": classes,
        "complete": True,
        "shards": shards,
    }


def _finish(work: Work, manifest: dict[str, Any]) -> None:
    """Writes the manifest, then clears away what only a killed run needs."""
    out = epath.Path(work.out)
    write_whole(out / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    (out / WORK).rmtree()
    files = {*manifest["rejected_files"], *(shard["file"] for shard in manifest["shards"])}
    for path in out.iterdir():
        # Lists of nothing, and hidden files that a kill left half written.
        ours = path.name.startswith((".shard-", ".rejected-", ".manifest", "rejected-"))
        if ours and path.name not in files:
            path.unlink()


@contextlib.contextmanager
def _watched(work: Work, progress: Callable[[int, int], None]) -> Iterator[None]:
    """Counts finished pieces while the pipeline runs, wherever its workers are."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(WATCH_SECONDS):
            names = [path.name for path in (epath.Path(work.out) / WORK).iterdir()]
            parts = [name for name in names if name.startswith("part-") and name.endswith(".json")]
            progress(len(parts), work.pieces)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


# ------------------------------------------------------------------ the pipeline


def _pipeline_options(runner: str, workers: int, beam_options: Iterable[str]) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    given = ["--default_sdk_harness_log_level=ERROR", *beam_options]
    if runner == EMBEDDED:
        mode = "in_memory" if workers == 1 else "multi_processing"
        given += [f"--direct_num_workers={workers}", f"--direct_running_mode={mode}"]
    else:
        given.append(f"--runner={runner}")
    return PipelineOptions(given)


def _run(work: Work, pieces: list[Piece], options: Any, runner: str) -> None:
    beam = apache_beam()
    # The name DirectRunner now stands for a program that Beam would download.
    chosen = _embedded_runner(options) if runner == EMBEDDED else None
    pipeline = beam.Pipeline(runner=chosen, options=options)
    parts = (
        pipeline
        | "pieces" >> beam.Create(list(enumerate(pieces)))
        | "spread" >> beam.Reshuffle()
        | "parts" >> beam.MapTuple(lambda index, piece: (index, make_part(work, index, piece)))
    )
    found = [
        parts
        | f"{label} keys" >> beam.FlatMap(keys, work.options)
        | f"{label} groups" >> beam.GroupByKey()
        | f"{label} losers" >> beam.FlatMap(losers, work.options)
        for label, keys, losers in (
            ("equal", equal_keys, equal_losers),
            ("alike", alike_keys, alike_losers),
        )
    ]
    ready = parts | "ready" >> beam.MapTuple(lambda index, part: (index, None))
    duplicates = tuple(found) | "duplicates" >> beam.Flatten()
    _ = (
        {"ready": ready, "duplicates": duplicates}
        | "by piece" >> beam.CoGroupByKey()
        | "shards" >> beam.MapTuple(lambda i, group: make_shard(work, i, group["duplicates"]))
    )
    pipeline.run().wait_until_finish()


def _embedded_runner(options: Any) -> Any:
    from apache_beam.portability.api import beam_provision_api_pb2
    from apache_beam.runners.portability.fn_api_runner import fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle

    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(info))


# ------------------------------------------------------------------ duplicates

# A record is named by its place (piece, row); the order of places is the order of the data.
Place = tuple[int, int]
Loser = tuple[int, tuple[int, str, str]]


def equal_keys(
    numbered: tuple[int, dict[str, Any]], options: Options
) -> Iterator[tuple[str, tuple[Place, str]]]:
    """(content hash, (place, where)) of each record of a part."""
    index, part = numbered
    if options.duplicates != "keep":
        for row, (where, content, _) in enumerate(part["kept"]):
            yield content, ((index, row), where)


def equal_losers(
    group: tuple[str, Iterable[tuple[Place, str]]], options: Options
) -> Iterator[Loser]:
    """All but the first of those with one content, as (piece, (row, reason, first))."""
    del options
    (_, first), *others = sorted(group[1])
    for (piece, row), _ in others:
        yield piece, (row, "duplicate", first)


def alike_keys(
    numbered: tuple[int, dict[str, Any]], options: Options
) -> Iterator[tuple[str, tuple[Place, str, str]]]:
    """Each record under each band of its look hash.

    Two hashes that differ in at most d of 64 bits agree wholly in one of any d + 1 bands.
    """
    if options.near_duplicates < 0:
        return
    index, part = numbered
    for row, (where, _, look) in enumerate(part["kept"]):
        for band in _bands(look, options.near_duplicates + 1):
            yield band, ((index, row), where, look)


def _bands(look: str, count: int) -> list[str]:
    assert 1 <= count <= MAX_DISTANCE + 1
    bits = f"{int(look, 16):0{HASH_BITS}b}"
    edges = [round(i * HASH_BITS / count) for i in range(count + 1)]
    return [f"{i}:{bits[edges[i] : edges[i + 1]]}" for i in range(count)]


def alike_losers(
    group: tuple[str, Iterable[tuple[Place, str, str]]], options: Options
) -> Iterator[Loser]:
    """Those of a band that resemble an earlier one of it."""
    members = sorted(group[1])
    looks = np.array([int(look, 16) for *_, look in members], np.uint64)
    for later in range(1, len(members)):
        distances = np.bitwise_count(looks[:later] ^ looks[later])
        near = np.flatnonzero(distances <= options.near_duplicates)
        if len(near):
            piece, row = members[later][0]
            yield piece, (row, "near duplicate", members[near[0]][1])
