"""The experiments of docs/examples as modules, and a folder as the emoji demo leaves it."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data.emoji import LIST, SETTINGS, entries
from babeldraw.data.emoji_packs import Icon
from babeldraw.data.image import save_png
from babeldraw.runs.folder import RunFolder

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
# That of the toy generator.
SIDE = 32


@pytest.fixture(scope="session")
def load_script():
    """`load_script("grid")`: docs/examples/grid.py as a module, which imports its neighbours."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(EXAMPLES))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(EXAMPLES))
        return module

    return load


@pytest.fixture(scope="module")
def emoji_demo(tmp_path_factory, runlocal):
    """The demo's folder: 320 pictures of one colour each, two styles; no weights are in it."""
    folder = tmp_path_factory.mktemp("demo")
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(160)]
    found, rng = entries({style: icons for style in ("Noto", "Twemoji")}), np.random.default_rng(0)
    for entry in found:
        picture = np.full((SIDE, SIDE, 3), rng.integers(256), np.uint8)
        save_png(folder / "emoji" / entry.file, picture)
    rows = "\n".join(json.dumps(vars(entry)) for entry in found)
    (folder / "emoji" / LIST).write_text(rows + "\n")
    (folder / "emoji" / SETTINGS).write_text("{}")
    (folder / "alexnet_lpips.safetensors").touch()
    run, config = RunFolder.of(str(folder / "tokenizer")), runlocal("emoji/tokenizer.py")
    run.path.mkdir()
    run.write_config(config.to_dict())
    return folder
