"""Compiled programs between starts: kept where they should be, found again, never in the way."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from babeldraw.errors import UserError
from babeldraw.runs import compiled
from babeldraw.runs.compiled import Programs, prune, use_compilation_cache
from babeldraw.train.first_step import told

ROOT = Path(__file__).parents[2]
# One program, in a process of its own: what is set there is set once.
START = """
import sys
from babeldraw.runs import compiled
compiled.LEAST_SECONDS = 0.0
compiled.use_compilation_cache(None, sys.argv[1])
import jax, jax.numpy as jnp
x = jnp.ones(())
programs = compiled.Programs()
assert float(jax.jit(lambda x: x + 2)(x)) == 3
programs.close()
print(programs.asked, programs.found, programs.kept)
"""


def start(workdir):
    """What a process counts, and what it says."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION_CACHE")}
    run = subprocess.run(
        [sys.executable, "-c", START, str(workdir)],
        cwd=ROOT,
        env=env | {"TERM": "dumb"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return [int(word) for word in run.stdout.split()], run.stderr


@pytest.mark.slow
def test_the_next_start_finds_its_programs_and_mends_a_damaged_one(tmp_path):
    assert start(tmp_path / "one") == ([1, 0, 1], "")
    (folder,) = (tmp_path / ".compilation_cache").iterdir()
    assert folder.name == f"cpu-{compiled._machine()}"
    (entry,) = folder.glob("jit__lambda-*-cache")
    whole = entry.read_bytes()
    assert start(tmp_path / "two") == ([1, 1, 0], "")
    # A write that was cut short by a kill or a full disk.
    entry.write_bytes(whole[: len(whole) // 2])
    counts, said = start(tmp_path / "three")
    assert counts == [1, 0, 1]
    (line,) = said.splitlines()
    assert line.startswith(f"the compilation cache {folder.parent} cannot be read (")
    assert line.endswith("); the run goes on")
    assert len(entry.read_bytes()) > len(whole) // 2
    assert start(tmp_path / "four") == ([1, 1, 0], "")


def test_where_nothing_can_be_kept_one_line_says_so(tmp_path):
    (tmp_path / ".compilation_cache").write_text("in the way")
    counts, said = start(tmp_path / "run")
    assert counts == [1, 0, 0]
    (line,) = said.splitlines()
    assert "cannot be read (" in line and "Error" in line


def test_the_entries_not_used_for_longest_go_first(tmp_path):
    folder, now = tmp_path / "cpu-0", time.time()
    folder.mkdir()
    # name: hours since it was read, since it was written.
    ages = {"a": (1, 90), "b": (50, 50), "c": (20, 70), "d": (2, 2), "other": (99, 99)}
    for name, (read, written) in ages.items():
        path = folder / (name if name == "other" else f"{name}-cache")
        path.write_bytes(bytes(100))
        os.utime(path, (now - 3600 * read, now - 3600 * written))
    prune(tmp_path, 400)
    assert len(list(folder.iterdir())) == 5
    prune(tmp_path, 250)
    assert {path.name for path in folder.iterdir()} == {"a-cache", "d-cache", "other"}


@contextlib.contextmanager
def jax_dir(value):
    """Inside, jax's own setting of the folder is another one."""
    name, update = "jax_compilation_cache_dir", type(jax.config).update
    before = jax.config.jax_compilation_cache_dir
    update(jax.config, name, value)
    try:
        yield
    finally:
        update(jax.config, name, before)


@pytest.fixture
def settings(monkeypatch):
    """What is set of jax; nothing is, and no warning is shown otherwise."""
    made = {}
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    monkeypatch.setattr(compiled, "_tell_faults", lambda *_: None)
    return made


def test_what_is_asked_for_comes_before_the_environment_and_that_before_the_default(
    settings, tmp_path
):
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
    use_compilation_cache(None, str(tmp_path / "run"))
    assert settings == {}
    use_compilation_cache(str(tmp_path / "mine"), None)
    folder = tmp_path / "mine" / f"cpu-{compiled._machine()}"
    assert settings["jax_compilation_cache_dir"] == str(folder)
    assert not folder.parent.exists()
    use_compilation_cache("gs://bucket/cache", "run")
    assert settings["jax_compilation_cache_dir"].startswith("gs://bucket/cache/cpu-")
    settings.clear()
    use_compilation_cache("off", "run")
    assert settings == {"jax_enable_compilation_cache": False}
    with pytest.raises(UserError, match="--compilation_cache is empty; a folder or off"):
        use_compilation_cache("", "run")


def test_the_default_is_beside_the_run(settings, monkeypatch, tmp_path):
    with jax_dir(None):
        use_compilation_cache(None, None)
        assert settings == {}
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        # jax's own key names a TPU whole; the path is not to be part of it.
        for workdir, beside in (("runs/a", tmp_path / "runs"), ("gs://bucket/a", "gs://bucket")):
            use_compilation_cache(None, workdir)
            assert settings["jax_compilation_cache_dir"] == f"{beside}/.compilation_cache"
            assert settings["jax_persistent_cache_enable_xla_caches"] == "none"
        settings.clear()
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        use_compilation_cache(None, "runs/a")
        assert "jax_persistent_cache_enable_xla_caches" not in settings


@pytest.mark.parametrize("whose", ["belongs to another user", "may be written by everybody"])
def test_others_programs_are_not_run_unless_asked_for(
    settings, monkeypatch, tmp_path, capsys, whose
):
    folder = tmp_path / ".compilation_cache"
    folder.mkdir()
    if "another" in whose:
        monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    else:
        folder.chmod(0o777)
    with jax_dir(None):
        use_compilation_cache(None, str(tmp_path / "run"))
    assert settings == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"the compilation cache {folder} {whose}: left out")
    use_compilation_cache(str(folder), None)
    assert "jax_compilation_cache_dir" in settings


def test_a_machine_is_its_jaxlib_and_its_processor(monkeypatch):
    texts = {"here": "model name : A\nflags : avx2\ncpu MHz : 1000\n"}
    monkeypatch.setattr(Path, "read_text", lambda _: texts["here"])
    first = compiled._machine()
    texts["here"] = "model name : A\nflags : avx2\ncpu MHz : 3000\n"
    assert compiled._machine() == first
    texts["here"] = "model name : A\nflags : avx2 avx512f\ncpu MHz : 1000\n"
    other = compiled._machine()
    monkeypatch.setattr("jaxlib.version.__version__", "0.0.1")
    assert len({first, other, compiled._machine()}) == 3


def test_the_first_step_says_where_its_program_came_from():
    programs = Programs()
    programs.close()
    assert told(programs, 3.21) == "the first step was ready after 3.2 s, compiled"
    programs.asked, programs.kept = 2, 1
    kept = "the first step was ready after 3.2 s, compiled, kept in the compilation cache for the "
    assert told(programs, 3.21) == kept + "next start"
    programs.found, programs.saved = 1, 20.04
    found = "the first step was ready after 3.2 s, from the compilation cache"
    assert told(programs, 3.21) == f"{found}, 1 of 2 programs: 20.0 s of compiling saved"
    programs.found = 2
    assert told(programs, 3.21) == f"{found}: 20.0 s of compiling saved"


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--config=configs/demo/classifier.py:runlocal"],
        ["evaluate"],
        ["sample"],
        ["caption", "--image=a.png"],
        ["probe"],
        ["features", "--block=1"],
        ["reconstruct", "--out=o"],
        ["tokenize", "--out=o"],
        ["demo"],
    ],
    ids=lambda words: words[0],
)
def test_commands_that_compile_for_a_run_keep_their_programs(cli, words, tmp_path, monkeypatch):
    if words[0] == "caption":
        monkeypatch.setattr("babeldraw.commands.caption._files", lambda _: [])
    code, _, said = cli(*words, f"--workdir={tmp_path / 'run'}", "--compilation_cache=")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    line = "babeldraw: error: --compilation_cache is empty; a folder or off is needed\n"
    assert said.endswith(line) and said.count("\n") == 1
