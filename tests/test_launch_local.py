"""The launcher with a Python of straw: which one it takes, when it sets up, what it then runs."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash")

# Stands for python3: passes every probe, takes $HASHED for the fingerprint, and writes down each
# set-up. Its `venv` copies itself, its `pip` makes a babeldraw that shows its call or, while
# $PIP_BREAKS exists, fails.
STRAW = f"""#!{BASH}
case "$*" in
  *hashlib*) cat "${{@: -2}}" | cksum | tr ' ' '-' ;;
  *sys.version\\)*) echo straw ;;
  "-m venv --clear "*)
    echo venv >>"$LOG"
    rm -rf "$4" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
  "-m pip "*)
    echo "pip ${{@: -1}}" >>"$LOG"
    [[ ! -e "$PIP_BREAKS" ]] || exit 1
    printf '#!{BASH}\\necho "babeldraw $PWD $*"\\n' >"${{0%/python}}/babeldraw"
    chmod +x "${{0%/python}}/babeldraw" ;;
  "-m pytest"*) echo "pytest $PWD ${{*:3}}" ;;
  *sys.exit*) exit 0 ;;
  *) exit 9 ;;
esac
"""
BROKEN = f"#!{BASH}\nexit 127\n"


class Machine:
    """A clone of the repository's shell on a machine whose Pythons the test chooses."""

    def __init__(self, tmp_path: Path):
        self.root = tmp_path / "a clone"
        self.here = tmp_path / "elsewhere"
        self.bin = tmp_path / "bin"
        self.log = tmp_path / "log"
        self.pip_breaks = tmp_path / "pip_breaks"
        for folder in (self.root / "launch", self.here, self.bin):
            folder.mkdir(parents=True)
        for name in ("launch/local.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        # Nothing but these and the Pythons a test adds.
        for tool in ("cat", "chmod", "cksum", "cp", "dirname", "mkdir", "rm", "tr"):
            (self.bin / tool).symlink_to(shutil.which(tool))

    def add_python(self, name: str, program: str = STRAW) -> str:
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(program)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def launch(self, *words: str, **env: str) -> subprocess.CompletedProcess:
        env = {
            "PATH": str(self.bin),
            "HOME": str(self.bin / "home"),
            "LOG": str(self.log),
            "PIP_BREAKS": str(self.pip_breaks),
        } | env
        command = [BASH, str(self.root / "launch" / "local.sh"), *words]
        return subprocess.run(command, cwd=self.here, env=env, capture_output=True, text=True)

    def set_ups(self) -> list[str]:
        """What was installed since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_help_sets_nothing_up(machine):
    run = machine.launch("--help")
    assert run.returncode == 0
    assert run.stdout.startswith("usage: bash launch/local.sh")
    assert not (machine.root / ".venv").exists()


def test_no_words_is_a_mistake(machine):
    run = machine.launch()
    assert run.returncode == 2
    assert run.stderr.startswith("usage:")


def test_a_python_that_fails_is_passed_over(machine):
    machine.add_python("python3", BROKEN)
    machine.add_python("python3.13", BROKEN)
    works = machine.add_python("python3.12")
    run = machine.launch("--which-python")
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{works}\n", "")


def test_a_python_of_pyenv_is_found_behind_its_shims(machine):
    machine.add_python("python3", BROKEN)
    machine.add_python("home/.pyenv/versions/3.10.9/bin/python3")
    works = machine.add_python("home/.pyenv/versions/3.12.1/bin/python3")
    assert machine.launch("--which-python").stdout == f"{works}\n"


def test_the_chosen_python_comes_first_where_it_works(machine):
    usual = machine.add_python("python3")
    chosen = machine.add_python("mine/python")
    assert machine.launch("--which-python", PYTHON=chosen).stdout == f"{chosen}\n"
    run = machine.launch("--which-python", PYTHON="/no/python")
    assert run.stdout == f"{usual}\n"
    assert run.stderr.count("\n") == 1
    assert "PYTHON=/no/python" in run.stderr


@pytest.mark.parametrize("words", [["--which-python"], ["demo"], ["test"]])
def test_no_python_is_one_clear_line(machine, words):
    machine.add_python("python3", BROKEN)
    run = machine.launch(*words)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert "found no Python 3.11 to 3.13" in run.stderr
    assert not (machine.root / ".venv").exists()


def test_the_first_run_sets_up_and_the_second_does_not(machine):
    machine.add_python("python3")
    first = machine.launch("demo", "--steps=3", "two words")
    assert first.stdout == f"babeldraw {machine.here} demo --steps=3 two words\n"
    assert "600 MB" in first.stderr
    assert machine.set_ups() == ["venv", "pip ."]

    second = machine.launch("demo")
    assert second.stdout == f"babeldraw {machine.here} demo\n"
    assert second.stderr == ""
    assert machine.set_ups() == []


def test_tests_run_in_the_root_with_their_extra(machine):
    machine.add_python("python3")
    run = machine.launch("test", "tests/data", "-m", "slow")
    assert run.stdout == (
        f"pytest {machine.root} --numprocesses=auto --maxprocesses=8 --dist=loadfile "
        "tests/data -m slow\n"
    )
    assert machine.set_ups() == ["venv", "pip .[tests]"]
    machine.launch("demo")
    assert machine.set_ups() == []


def test_preparing_data_brings_its_extra(machine):
    machine.add_python("python3")
    run = machine.launch("prepare", "--path=x")
    assert run.stdout == f"babeldraw {machine.here} prepare --path=x\n"
    assert machine.set_ups() == ["venv", "pip .[prepare]"]
    machine.launch("train")
    assert machine.set_ups() == []


@pytest.mark.parametrize(
    "words",
    [["emoji", "--out=x"], ["demo", "--world=emoji"], ["demo", "--workdir=x", "--world", "emoji"]],
)
def test_emoji_bring_what_draws_them(machine, words):
    machine.add_python("python3")
    run = machine.launch(*words)
    assert run.stdout == f"babeldraw {machine.here} {' '.join(words)}\n"
    assert machine.set_ups() == ["venv", "pip .[emoji]"]


def test_the_extra_is_added_to_what_is_there(machine):
    machine.add_python("python3")
    machine.launch("demo")
    machine.set_ups()
    machine.launch("test")
    assert machine.set_ups() == ["pip .[tests]"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_change_of_the_dependencies_is_installed(machine, name):
    machine.add_python("python3")
    machine.launch("demo")
    machine.set_ups()
    with (machine.root / name).open("a") as file:
        file.write("\n")
    machine.launch("demo")
    assert machine.set_ups() == ["pip ."]


def test_a_set_up_cut_short_is_redone(machine):
    machine.add_python("python3")
    machine.pip_breaks.touch()
    run = machine.launch("demo")
    assert run.returncode == 1
    assert "the set-up failed" in run.stderr
    assert machine.set_ups() == ["venv", "pip ."]

    machine.pip_breaks.unlink()
    assert machine.launch("demo").returncode == 0
    assert machine.set_ups() == ["venv", "pip ."]


def test_a_set_up_under_way_is_left_alone(machine):
    machine.add_python("python3")
    (machine.root / ".venv.unfinished").write_text(f"{os.getpid()}\n")
    run = machine.launch("demo")
    assert run.returncode == 1
    assert f"process {os.getpid()} is setting up" in run.stderr
    assert machine.set_ups() == []
