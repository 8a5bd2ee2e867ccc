"""Which of how many hosts this process is: from flags, or from what it was started by."""

import dataclasses
import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from babeldraw.config import require
from babeldraw.errors import UserError

# jax's coordinator listens here where nothing says otherwise; the roll call on the next port.
PORT = 8476
METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"
# Only a TPU VM has one of these and a metadata server that knows its slice.
TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")
# What tells a process its place where the environment does not.
ALL = "coordinator=, count= and index="


@dataclasses.dataclass(frozen=True)
class Place:
    """Attributes:
    coordinator: "HOST:PORT" of the first host.
    count: hosts of the run.
    index: of this one, from 0.
    names: of all hosts in order, as far as the environment tells; else empty.
    """

    coordinator: str
    count: int
    index: int
    names: tuple[str, ...] = ()

    def __post_init__(self):
        require(
            re.fullmatch(r"\[?[\w.:-]+\]?:\d+", self.coordinator) is not None,
            f"coordinator is {self.coordinator!r}; HOST:PORT of the first host is needed",
        )
        require(self.count >= 1, f"count is {self.count}; at least 1 is needed")
        require(
            0 <= self.index < self.count,
            f"index is {self.index} of count={self.count}; 0 to {self.count - 1} is needed",
        )

    @property
    def address(self) -> tuple[str, int]:
        """Of the roll call."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port) + 1


def find_place(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    environ: Mapping[str, str] = os.environ,
    metadata: Callable[[str], str] | None = None,
) -> Place | None:
    """The place of this process, or None where it is alone.

    The first that is there counts: what is given; Slurm; GKE, or a TPU VM that has GKE's variables;
    the metadata of a TPU VM.

    Args:
      coordinator, count, index: all or none.
      environ: the environment.
      metadata: gives an attribute of this TPU VM, "" where there is none; by default asks the
        metadata server on machines that have a TPU.

    Raises:
      UserError: only some of the three, or values that do not fit.
    """
    given = {"coordinator": coordinator, "count": count, "index": index}
    missing = [name for name, value in given.items() if value is None]
    if not missing:
        return Place(coordinator, count, index)
    require(
        len(missing) == 3,
        f"{' and '.join(f'{name}=' for name in missing)} missing: several hosts need {ALL}",
    )
    # Only what srun starts is one of several; a batch script has the other variables too.
    if "SLURM_STEP_NODELIST" in environ:
        return _slurm(environ)
    if "TPU_WORKER_HOSTNAMES" in environ and "TPU_WORKER_ID" in environ:
        workers = environ["TPU_WORKER_HOSTNAMES"].split(",")
        return _slices(workers, environ["TPU_WORKER_ID"], environ)
    return _tpu_vm(environ, metadata or _metadata(environ))


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """`srun` starts one process per host, or per GPU."""
    count = int(environ["SLURM_NTASKS"])
    if count == 1:
        return None
    # Jobs that share a node must not share a port.
    port = 61440 + int(environ["SLURM_JOB_ID"]) % 2048 * 2
    names = node_names(environ["SLURM_STEP_NODELIST"])
    return Place(
        f"{names[0]}:{port}",
        count,
        int(environ["SLURM_PROCID"]),
        tuple(names) if len(names) == count else (),
    )


def node_names(text: str) -> list[str]:
    """Slurm's "a[01-03,7],b" to ["a01", "a02", "a03", "a7", "b"]."""
    names = []
    for part in re.findall(r"[^,\[]+(?:\[[^\]]*\])?", text):
        prefix, _, ranges = part.rstrip("]").partition("[")
        for one in ranges.split(","):
            first, _, last = one.partition("-")
            numbers = range(int(first), int(last or first) + 1) if first else ()
            names += [f"{prefix}{number:0{len(first)}}" for number in numbers] or [prefix]
    return names


def _tpu_vm(environ: Mapping[str, str], metadata: Callable[[str], str]) -> Place | None:
    number = metadata("agent-worker-number")
    if not number:
        return None
    # Either addresses, or triples of name, number and address.
    workers = [entry.split(":")[-1] for entry in metadata("worker-network-endpoints").split(",")]
    # A multi-slice queued resource tells the slices here, as "NAME: 'VALUE'" lines.
    slices = dict(re.findall(r"^(MEGASCALE_\w+): '?([^'\n]*)'?$", metadata("tpu-env"), re.M))
    return _slices(workers, number, {**slices, **environ})


def _slices(workers: list[str], number: str, environ: Mapping[str, str]) -> Place | None:
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    this = int(environ.get("MEGASCALE_SLICE_ID") or 0)
    first = environ.get("MEGASCALE_COORDINATOR_ADDRESS", "").partition(":")[0]
    count = slices * len(workers)
    if count == 1:
        return None
    # libtpu itself writes a warning into TPU_WORKER_ID where it knows no number.
    require(
        number.strip().isdigit(),
        f"TPU_WORKER_ID is {number!r}; this host's number from 0 is needed, or give {ALL}",
    )
    coordinator = f"{first if slices > 1 and first else workers[0]}:{PORT}"
    names = tuple(workers) if slices == 1 else ()
    return Place(coordinator, count, this * len(workers) + int(number), names)


def _metadata(environ: Mapping[str, str]) -> Callable[[str], str]:
    there = any(Path(device).exists() for device in TPU_DEVICES)

    def ask(name: str) -> str:
        if not there or environ.get("TPU_SKIP_MDS_QUERY"):
            return ""
        request = urllib.request.Request(METADATA + name, headers={"Metadata-Flavor": "Google"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ""
            raise
        except urllib.error.URLError as error:
            # Elsewhere than in Google's cloud there is no such name. Any other fault must not make
            # a host believe that it is alone.
            if isinstance(error.reason, socket.gaierror):
                return ""
            raise UserError(
                f"the metadata of this TPU VM cannot be read ({error.reason}); give {ALL}"
            ) from error

    return ask
