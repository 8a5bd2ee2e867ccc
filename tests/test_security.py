"""What no file of the package does, read from the source; and what a crash report does not hold."""

import ast
import json
import os
from pathlib import Path

import pytest

from babeldraw.runs.folder import RunFolder
from babeldraw.train.crash import Flight, reported

ROOT = Path(__file__).parents[1]
FOLDERS = ("babeldraw", "configs", "docs/examples")
# Reading them runs what they say.
FORBIDDEN_MODULES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
FORBIDDEN_CALLS = {
    "eval": "runs text",
    "exec": "runs text",
    "os.system": "a shell",
    "os.popen": "a shell",
    "yaml.load": "take yaml.safe_load",
    "yaml.unsafe_load": "take yaml.safe_load",
    "tempfile.mktemp": "a name that another may take first",
}
# Calls that are safe with one argument only.
NEEDED = {
    "numpy.load": ("allow_pickle", False),
    "np.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}


def called(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def keyword(call, name):
    values = [k.value for k in call.keywords if k.arg == name]
    return values[0].value if values and isinstance(values[0], ast.Constant) else None


def unsafe(text, path="x.py"):
    """The lines that break a rule."""
    broken = []
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            broken += [
                f"{path}:{node.lineno}: {name} runs what it reads"
                for name in names
                if name.partition(".")[0] in FORBIDDEN_MODULES
            ]
        if not isinstance(node, ast.Call):
            continue
        name, where = called(node.func), f"{path}:{node.lineno}"
        if name in FORBIDDEN_CALLS:
            broken.append(f"{where}: {name}: {FORBIDDEN_CALLS[name]}")
        if keyword(node, "shell") is True:
            broken.append(f"{where}: {name} with a shell")
        if name in NEEDED and keyword(node, NEEDED[name][0]) is not NEEDED[name][1]:
            broken.append(f"{where}: {name} needs {NEEDED[name][0]}={NEEDED[name][1]}")
        if name.endswith(".extractall") and keyword(node, "filter") != "data":
            broken.append(f"{where}: {name} needs filter='data': members may name any place")
    return broken


def test_nothing_is_unpickled_run_from_text_or_given_to_a_shell():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 80
    broken = [line for path in paths for line in unsafe(path.read_text(), path.relative_to(ROOT))]
    assert not broken, "\n".join(map(str, broken))


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "eval(x)",
        "import os\nos.system(f'ls {x}')",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import yaml\nyaml.load(x, Loader=yaml.Loader)",
        "import numpy as np\nnp.load(x)",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import torch\ntorch.load(x)",
        "import tarfile\ntarfile.open(x).extractall(y)\narchive.extractall(y)",
    ],
)
def test_the_rule_sees_a_breach(text):
    assert unsafe(text)


def test_the_rule_lets_pass():
    assert not unsafe(
        "import yaml, subprocess\nyaml.safe_load(x)\nsubprocess.run(['ls', x])\n"
        "np.load(x, allow_pickle=False)\narchive.extractall(y, filter='data')\nmodel.eval()"
    )


def test_a_crash_leaves_a_report_without_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STORAGE_KEY", "the-secret")
    folder = RunFolder.of(str(tmp_path))
    flight = Flight({"train": {"steps": 4}}, 3, {"loss": 1.5})
    with pytest.raises(ZeroDivisionError), reported(folder, 1, flight):
        _ = 1 / 0
    (path,) = (tmp_path / "crashes").iterdir()
    report = json.loads(path.read_text())
    assert (report["step"], report["host"], report["last_metrics"]) == (3, 1, {"loss": 1.5})
    assert report["error"] == "ZeroDivisionError: division by zero"
    assert report["config"] == {"train": {"steps": 4}} and "jax" in report["versions"]
    assert any("_ = 1 / 0" in line for line in report["stack"])
    assert "the-secret" not in path.read_text() and os.environ["STORAGE_KEY"]
    assert str(path) in capsys.readouterr().err


def test_a_users_mistake_is_no_crash(tmp_path):
    from babeldraw.errors import UserError

    with pytest.raises(UserError), reported(RunFolder.of(str(tmp_path)), 0, Flight({})):
        raise UserError("x")
    assert not (tmp_path / "crashes").exists()
