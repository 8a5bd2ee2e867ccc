"""A scheduled program kept in a file, so that it can be estimated again without compiling."""

import dataclasses
import gzip
import json
import zlib

from etils import epath

from babeldraw.commands.compile_train import Report, Scheduled, estimate_again
from babeldraw.errors import UserError
from babeldraw.estimate.chips import CHIPS
from babeldraw.estimate.collective_costs import Wires
from babeldraw.train.flops import ModelFlops

FORMAT = 1


def keep(path: epath.PathLike, report: Report, program: Scheduled) -> None:
    """Writes a program and its report to a file: a line of JSON and the program's text, gzipped."""
    header = {
        "format": FORMAT,
        "report": dataclasses.asdict(report),
        "needed": program.needed and dataclasses.asdict(program.needed),
        "places": program.wires.places,
        "rings": program.wires.rings,
    }
    text = f"{json.dumps(header)}\n{program.text}"
    epath.Path(path).write_bytes(gzip.compress(text.encode(), 6, mtime=0))


def kept(path: epath.PathLike) -> Report:
    """The report of a kept program, its estimates made anew by the estimator as it is now.

    Raises:
      UserError: no such file, or not one that `keep` wrote.
    """
    try:
        head, _, text = gzip.decompress(epath.Path(path).read_bytes()).decode().partition("\n")
        header = json.loads(head)
        if header["format"] != FORMAT:
            raise UserError(
                f"--from={path} has format {header['format']}; this program reads format {FORMAT}"
            )
        report = Report(**header["report"])
        needed = header["needed"] and ModelFlops(**header["needed"])
        places = tuple(tuple(place) for place in header["places"])
        wires = Wires(CHIPS[report.topology.partition(":")[0]], places, tuple(header["rings"]))
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--from={path} is not a program that --keep wrote, or not all of it ({error})"
        ) from error
    except OSError as error:
        raise UserError(f"--from={path} cannot be read: {error.strerror or error}") from error
    estimate_again(report, Scheduled(text, wires, needed))
    return report
