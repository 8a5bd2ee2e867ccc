"""Compiled programs, kept between starts: jax's persistent compilation cache, beside the runs."""

import contextlib
import glob
import hashlib
import os
import platform
import re
import stat
import warnings
from pathlib import Path

import jax
import jaxlib.version
from etils import epath

from babeldraw.errors import UserError
from babeldraw.say import say

# Hidden, so that no list of runs takes it for one.
FOLDER = ".compilation_cache"
OFF = "off"
# Of compiling, from which on a program is kept. jax's own limit is a second.
LEAST_SECONDS = 0.1
# Of a local folder, looked at once a start. jax's own limit needs the package `filelock`, and up to
# jax 0.12 one entry of a killed process ends all writing under it (jax issue 39880).
MOST_BYTES = 2 * 2**30
# Of /proc/cpuinfo: what code may have been made for. The rest differs by core or with time.
CPU_FIELDS = {
    *("vendor_id", "cpu family", "model", "model name", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
}
FAULT = re.compile(r"Error (read|writ)ing persistent compilation cache entry for '(.*?)': (.*)")


def use_compilation_cache(asked: str | None, workdir: str | None) -> None:
    """Keeps programs from here on; before the first one, and once all hosts have joined.

    Args:
      asked: a folder, local or on a path that etils knows, or `off`; None: what
        JAX_COMPILATION_CACHE_DIR says, else `.compilation_cache` beside the run folder.
      workdir: the run folder; None where there is none: nothing is kept unless asked for.

    Raises:
      UserError: `asked` is empty.
    """
    if asked == "":
        raise UserError(f"--compilation_cache is empty; a folder or {OFF} is needed")
    if asked == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if asked is None and (jax.config.jax_compilation_cache_dir or workdir is None):
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    whole = _absolute(asked) if asked else _absolute(workdir).parent / FOLDER
    local = "://" not in str(whole)
    reason = _distrusted(Path(whole)) if local and asked is None else ""
    if reason:
        say(
            f"the compilation cache {whole} {reason}: left out, for its programs would run as "
            "yours; --compilation_cache=DIR names another"
        )
        return
    kind = jax.default_backend()
    # jax's key names the chip and its compiler, and of a CPU no more than that it is one: another
    # machine's code is refused when it is loaded, or ends the process (jax issue 38445).
    folder = whole / f"cpu-{_machine()}" if kind == "cpu" else whole
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    if kind != "gpu" or not local:
        # What XLA keeps of its own there is for GPUs; its path would be in every program's key.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    if local:
        with contextlib.suppress(OSError):
            prune(Path(whole), MOST_BYTES)
    _tell_faults(Path(folder) if local else None, str(whole))


def prune(folder: Path, most: int) -> None:
    """Removes the entries not used for longest until they hold at most so many bytes.

    The time of use is the file system's, to a day; without one (noatime), that of writing.
    """
    entries = [(path, path.stat()) for path in folder.rglob("*-cache")]
    total = sum(found.st_size for _, found in entries)
    for path, found in sorted(entries, key=lambda e: max(e[1].st_atime, e[1].st_mtime)):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= found.st_size


class Programs:
    """Counts the programs that jax makes ready from here to `close`.

    Attributes:
      asked: that the cache was asked for.
      found: of these, in the cache.
      kept: that were compiled and written there.
      saved: seconds that compiling those found had taken, less reading them.
    """

    def __init__(self):
        self.asked = self.found = self.kept = 0
        self.saved = 0.0
        jax.monitoring.register_event_listener(self._happened)
        jax.monitoring.register_event_duration_secs_listener(self._took)

    def close(self) -> None:
        """To be called once."""
        jax.monitoring.unregister_event_listener(self._happened)
        jax.monitoring.unregister_event_duration_listener(self._took)

    def _happened(self, event: str, **_) -> None:
        self.asked += event == "/jax/compilation_cache/compile_requests_use_cache"
        self.found += event == "/jax/compilation_cache/cache_hits"
        # jax tells of a miss where it writes one.
        self.kept += event == "/jax/compilation_cache/cache_misses"

    def _took(self, event: str, seconds: float, **_) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            self.saved += max(seconds, 0.0)


def _absolute(path: str) -> epath.Path:
    found = epath.Path(path).expanduser()
    return found if "://" in str(found) else found.absolute()


def _distrusted(folder: Path) -> str:
    """Why what lies there may not be run: an entry is code."""
    try:
        found = folder.stat()
    except OSError:
        return ""
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        return "belongs to another user"
    return "may be written by everybody" if found.st_mode & stat.S_IWOTH else ""


def _machine() -> str:
    """A digest of what makes one CPU's code another's."""
    facts = {jaxlib.version.__version__, platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.partition(":")[0].strip() in CPU_FIELDS:
                facts.add(line)
    return hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()[:12]


def _tell_faults(folder: Path | None, name: str) -> None:
    """jax's warnings of this cache become one line each, of reading and of writing.

    And an entry in question goes, from a local folder: a write cut short stays as it is for ever
    otherwise, and is compiled anew at each start.
    """
    show, told = warnings.showwarning, set()

    def shown(message, category, *where, **more):
        fault = FAULT.match(" ".join(str(message).split()))
        if fault is None:
            show(message, category, *where, **more)
            return
        how, program, reason = fault.groups()
        if how not in told:
            what = {"read": "read", "writ": "written"}[how]
            say(f"the compilation cache {name} cannot be {what} ({reason}); the run goes on")
        told.add(how)
        with contextlib.suppress(OSError):
            for path in folder.glob(f"{glob.escape(program)}-*-cache") if folder else ():
                path.unlink(missing_ok=True)

    warnings.showwarning = shown
    warnings.filterwarnings("always", message="Error (read|writ)ing persistent compilation cache")
