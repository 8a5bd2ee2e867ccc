"""The order of the rooms and the fences, read from the source by `ast`.

Each rule is a function from one file to the lines that break it (`no_circles`: from all files), so
that it can be tried on a snippet as well as on the whole tree.
"""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 450

# A room may import itself and the rooms before it.
ROOMS = (
    "errors",
    "say",
    "pages",
    "config",
    "sharding",
    "layers",
    "estimate",
    "optim",
    "runs",
    "data",
    "judges",
    "tokenizers",
    "models",
    "prediction",
    "objectives",
    "drawing",
    "evaluation",
    "complexity",
    "convert",
    "hosts",
    "train",
    "serve",
    "commands",
    "cli",
    "__main__",
)

# Importing one of these imports TensorFlow: eleven seconds and 650 MB.
HEAVY = ("tensorflow", "tensorflow_datasets", "clu.metric_writers", "clu.periodic_actions")

# Weighted products are our Einsum; the built-in ones fail under `jax.set_mesh` with rules active.
LINEN_LAYERS = re.compile(
    r"flax\.linen\.(Dense|DenseGeneral|Conv\w*|MultiHead\w*|SelfAttention|Embed"
    r"|LayerNorm|RMSNorm|GroupNorm|BatchNorm)"
)
LINEN_LIFTED = re.compile(
    r"flax\.linen\.(transforms|scan|vmap|jit|remat|remat_scan|checkpoint|map_variables"
    r"|while_loop|cond|switch|grad|value_and_grad|jvp|vjp|custom_vjp)"
)
# These name mesh axes; parameters carry logical ones, by `with_logical_partitioning`.
LINEN_BOXES = re.compile(r"flax\.linen\.(Partitioned|with_partitioning)")
PRIVATE_JAX = re.compile(r"jax\.(_src|interpreters)(\.|$)")
CONFIG = re.compile(r"(^|_)(config|cfg)$")


@dataclass(frozen=True)
class Source:
    """One Python file: `path` as from the repository's root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def module(self) -> str:
        name = self.path.removesuffix(".py").removesuffix("/__init__")
        return name.replace("/", ".")

    @property
    def package(self) -> str:
        """What a relative import in this file starts from."""
        is_package = self.path.endswith("/__init__.py")
        return self.module if is_package else self.module.rpartition(".")[0]


# ------------------------------------------------------------------ reading names


def imported(node: ast.AST, package: str) -> dict[str, str]:
    """The local names an import statement binds, with what each one stands for."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: alias.name for alias in node.names}
    if not isinstance(node, ast.ImportFrom):
        return {}
    origin = node.module or ""
    if node.level:
        parents = package.split(".")
        origin = ".".join(parents[: len(parents) - node.level + 1] + origin.split(".")).strip(".")
    return {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a chain of attributes; "" where the chain starts in anything but a name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (start := dotted(node.value)):
        return f"{start}.{node.attr}"
    return ""


def uses(source: Source) -> list[tuple[int, str]]:
    """Each import and each chain of attributes as (line, full name), aliases replaced."""
    found, aliases = [], {}
    for node in ast.walk(source.tree):
        names = imported(node, source.package)
        aliases |= names
        found += [(node.lineno, name) for name in names.values()]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node)):
            start, _, rest = name.partition(".")
            found.append((node.lineno, f"{aliases.get(start, start)}.{rest}"))
    return found


def at_import(node: ast.AST):
    """The nodes below `node` that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and dotted(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_import(child)


# ------------------------------------------------------------------ the rules


def room_order(source: Source) -> list[str]:
    """Imports of babeldraw that run from an earlier room to a later one."""
    here = (source.module.split(".") + ["__init__"])[1]
    if here != "__init__" and here not in ROOMS:
        return [f"{source.path}: place the room {here!r} in ROOMS of tests/test_architecture.py"]
    allowed = ROOMS[: ROOMS.index(here) + 1] if here in ROOMS else ()
    broken = []
    for node in ast.walk(source.tree):
        for name in imported(node, source.package).values():
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "babeldraw" and room in ROOMS and room not in allowed:
                broken.append(f"{source.path}:{node.lineno}: {here} imports the later room {room}")
    return broken


def linen_fence(source: Source) -> list[str]:
    """Linen's layers anywhere, its lifted transforms and boxes out of their place."""
    forbidden = [LINEN_LAYERS]
    if source.path != "babeldraw/layers/stack.py":
        forbidden.append(LINEN_LIFTED)
    if not source.path.startswith("babeldraw/layers/"):
        forbidden.append(LINEN_BOXES)
    return [
        f"{source.path}:{line}: {name} is outside the Linen fence"
        for line, name in uses(source)
        if any(pattern.fullmatch(name) for pattern in forbidden)
    ]


def light_imports(source: Source) -> list[str]:
    """TensorFlow, or what drags it in, imported where the module is."""
    return [
        f"{source.path}:{node.lineno}: import {name} inside the function that needs it"
        for node in at_import(source.tree)
        for name in imported(node, source.package).values()
        if any(f"{name}.".startswith(f"{heavy}.") for heavy in HEAVY)
    ]


def no_hidden_defaults(source: Source) -> list[str]:
    """`config.get(name, default)` and `getattr(config, name, default)`."""
    broken = []
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        owner, given = node.func, len(node.args) + len(node.keywords)
        if isinstance(owner, ast.Attribute) and owner.attr == "get" and given == 2:
            owner = owner.value
        elif isinstance(owner, ast.Name) and owner.id == "getattr" and given == 3:
            owner = node.args[0]
        else:
            continue
        if any(CONFIG.search(part) for part in dotted(owner).split(".")):
            broken.append(f"{source.path}:{node.lineno}: the default belongs in the dataclass")
    return broken


def fits_in_the_head(source: Source) -> list[str]:
    lines = source.text.count("\n")
    return [f"{source.path}: {lines} lines, over {MAX_LINES}"] if lines > MAX_LINES else []


def public_jax(source: Source) -> list[str]:
    return [
        f"{source.path}:{line}: {name} is no public API"
        for line, name in uses(source)
        if PRIVATE_JAX.match(name)
    ]


def no_circles(sources: list[Source]) -> list[str]:
    """One circle of imports, if there is any; an import inside a function counts as any other.

    It only hides the circle: neither module can be read, or moved, without the other.
    """
    modules = {source.module for source in sources}

    def module_of(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for source in sources:
        nodes = ast.walk(source.tree)
        names = (name for node in nodes for name in imported(node, source.package).values())
        graph[source.module] = {module_of(name) for name in names} - {""}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [" is imported by ".join(error.args[1])]
    return []


# ------------------------------------------------------------------ the tree


def read(*folders: str) -> list[Source]:
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths]


@pytest.mark.parametrize(
    ("rule", "folders"),
    [
        (room_order, ["babeldraw"]),
        (linen_fence, ["babeldraw"]),
        (light_imports, ["babeldraw", "configs"]),
        (no_hidden_defaults, ["babeldraw", "configs"]),
        (fits_in_the_head, ["babeldraw", "configs", "tests"]),
        (public_jax, ["babeldraw", "configs", "tests"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_tree_keeps(rule, folders):
    broken = [line for source in read(*folders) for line in rule(source)]
    assert not broken, "\n" + "\n".join(broken)


def test_the_tree_has_no_circle_of_imports():
    assert no_circles(read("babeldraw", "configs", "tests")) == []


def test_no_module_imports_tensorflow():
    modules = [source.module for source in read("babeldraw")]
    modules = [module for module in modules if not module.endswith("__main__")]
    program = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    heavy = sorted(set({HEAVY}) & set(sys.modules))
    assert not heavy, f"importing {{module}} imports {{heavy}}"
"""
    command = [sys.executable, "-W", "error", "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_constraints_are_names_and_versions_of_all_we_depend_on():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = re.compile(r"([a-z0-9-]+)==[0-9][0-9a-z.]*( ; [a-zA-Z_0-9.'<>=! ]+)?")
    assert [line for line in lines if not pinned.fullmatch(line)] == []

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + extras["tests"] + extras["dev"] + extras["tpu"]
    names = {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - {"babeldraw"} <= {line.partition("==")[0] for line in lines}


# ------------------------------------------------------------------ the rules themselves


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (room_order, "layers/norm.py", "from babeldraw import errors, train"),
        (room_order, "layers/norm.py", "from babeldraw.models.vim import Vim"),
        (room_order, "layers/norm.py", "def f():\n    import babeldraw.cli as cli"),
        (room_order, "layers/norm.py", "from ..models import vim"),
        (room_order, "layers/__init__.py", "from ..models import vim"),
        (room_order, "layers/norm.py", "from .. import models"),
        (room_order, "errors.py", "from . import config"),
        (room_order, "__init__.py", "from babeldraw import cli"),
        (room_order, "misc/norm.py", ""),
        (linen_fence, "layers/x.py", "import flax.linen as nn\nnn.Dense(3)"),
        (linen_fence, "layers/x.py", "from flax import linen\nlinen.MultiHeadAttention()"),
        (linen_fence, "layers/x.py", "import flax\nflax.linen.Embed(3, 4)"),
        (linen_fence, "layers/x.py", "from flax.linen import Conv as C"),
        (linen_fence, "models/x.py", "import flax.linen as nn\n@nn.remat\ndef f(): pass"),
        (linen_fence, "models/x.py", "import flax.linen as nn\nnn.with_partitioning(f, ())"),
        (light_imports, "data/x.py", "import tensorflow as tf"),
        (light_imports, "data/x.py", "try:\n    import tensorflow.io\nexcept ImportError: pass"),
        (light_imports, "data/x.py", "class A:\n    from clu import metric_writers"),
        (light_imports, "data/x.py", "if X:\n    import tensorflow_datasets as tfds"),
        (no_hidden_defaults, "train/x.py", "config.get('b2', 0.98)"),
        (no_hidden_defaults, "train/x.py", "self.config.model.get('b2', default=1)"),
        (no_hidden_defaults, "train/x.py", "getattr(train_cfg, 'b2', 1)"),
        (fits_in_the_head, "train/x.py", "\n" * 451),
        (public_jax, "train/x.py", "from jax._src import core"),
        (public_jax, "train/x.py", "import jax\njax.interpreters.ad"),
    ],
)
def test_a_rule_sees_a_breach(rule, path, text):
    assert len(rule(Source(f"babeldraw/{path}", text))) >= 1


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (room_order, "models/vim.py", "from babeldraw.layers import norms\nfrom . import base"),
        (room_order, "models/vim.py", "from babeldraw import __version__\nimport jax.config"),
        (room_order, "errors.py", "import dataclasses"),
        (room_order, "cli.py", "from babeldraw.commands import demo"),
        (linen_fence, "layers/stack.py", "import flax.linen as nn\nnn.scan(nn.remat(Block))"),
        (linen_fence, "models/x.py", "import flax.linen as nn\nnn.with_logical_partitioning"),
        (linen_fence, "models/x.py", "import jax\njax.vmap(f)\nconfig.scan\nmodel.Dense"),
        (linen_fence, "models/x.py", "import flax.linen as nn\nnn.Module\nnn.compact\nnn.gelu"),
        (light_imports, "data/x.py", "def f():\n    import tensorflow as tf"),
        (light_imports, "data/x.py", "from clu import metrics, parameter_overview"),
        (light_imports, "data/x.py", "if typing.TYPE_CHECKING:\n    import tensorflow as tf"),
        (no_hidden_defaults, "train/x.py", "batch.get('mask', None)\nconfig.get('b2')"),
        (no_hidden_defaults, "train/x.py", "getattr(config, 'b2')\nconfigs.get('x', 1)"),
        (fits_in_the_head, "train/x.py", "\n" * 450),
        (public_jax, "train/x.py", "import jax\njax.tree.map\nother._src"),
    ],
)
def test_a_rule_lets_pass(rule, path, text):
    assert rule(Source(f"babeldraw/{path}", text)) == []


def graph_of(files: dict[str, str]) -> list[Source]:
    return [Source(f"babeldraw/{path}", text) for path, text in files.items()]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from babeldraw import b", "b.py": "import babeldraw.a"},
        {"a.py": "from babeldraw.b import B", "b.py": "def f():\n    from babeldraw.a import A"},
        {
            "a.py": "from . import b",
            "b.py": "from .c import C",
            "c.py": "from babeldraw.a import *",
        },
        {"d/__init__.py": "from .a import A", "d/a.py": "from babeldraw.d import B"},
        {"d/a.py": "from ..b import B", "b.py": "from babeldraw.d import a"},
        {"a.py": "if TYPE_CHECKING:\n    from babeldraw import b", "b.py": "from . import a"},
    ],
)
def test_a_circle_is_seen(files):
    (circle,) = no_circles(graph_of(files))
    first, *others, last = circle.split(" is imported by ")
    assert first == last
    assert {first, *others} == {source.module for source in graph_of(files)}


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from babeldraw import b, c", "b.py": "from babeldraw.c import C", "c.py": ""},
        {"d/__init__.py": "", "d/a.py": "from babeldraw.d import b", "d/b.py": "import numpy"},
        {"a.py": "import b, a.b\nfrom other.babeldraw import a", "b.py": "from babeldraw import a"},
    ],
)
def test_what_is_no_circle_passes(files):
    assert no_circles(graph_of(files)) == []
