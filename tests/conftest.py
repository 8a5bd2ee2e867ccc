"""Strict tests: eight simulated CPU devices, no silent dtype or rank promotion.

The settings in the environment are read when jax is imported, and reach the processes that tests
start; the strict ones hold for this process alone.
"""

import fcntl
import gc
import importlib.metadata
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEVICES = 8
# Where pytest keeps its own cache, so that `pytest --cache-clear` empties it.
COMPILED = ROOT / ".pytest_cache" / "d" / "jax"

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests ask for values, not for speed: the quickest way from XLA's program to the processor's, with
# the same passes over the program itself. More than half of a first run was compiling without it.
# Who names a level in XLA_FLAGS gets the code that users get.
LEVEL = "--xla_backend_optimization_level"
QUICK_CODE = (
    f"{LEVEL}=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
)
# XLA ends the process at a flag that it does not know: jaxlib 0.12 has no other emitters any more.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK_CODE += ("--xla_cpu_use_fusion_emitters=false",)
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [
        given,
        f"--xla_force_host_platform_device_count={DEVICES}",
        *(() if LEVEL in given else QUICK_CODE),
    ]
).strip()
# Where each operation stands in Python is told by nobody here, and costs a tenth of lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Tracing makes many small objects that stay. Python looks through them again at every few hundred
# new ones, which was a fifth of the time of the two files that it was measured on.
gc.set_threshold(50_000, 20, 100)

import jax  # noqa: E402

from tests import durations  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_sessionstart(session):
    """Stops at once where jax was imported too early to see the eight devices."""
    del session
    devices = jax.devices()
    if len(devices) != DEVICES or devices[0].platform != "cpu":
        raise pytest.UsageError(f"tests need {DEVICES} CPU devices, jax shows {devices}")


def pytest_runtest_setup(item):
    """Gives tests their compiled programs back: a command may turn them off for its process."""
    del item
    if not jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", True)


def pytest_configure(config):
    durations.register(config)


def pytest_addoption(parser):
    parser.addoption("--rewrite", action="store_true", help="write the golden files anew")
    parser.addoption("--costs", type=Path, help="write what each test cost to this JSON file")


@pytest.fixture(scope="session")
def runlocal():
    """`runlocal("demo/tokenizer.py")`: that config, with sizes for a few quick steps."""
    from babeldraw.train.presets import load_config

    return lambda name: load_config(f"configs/{name}", ROOT / "pyproject.toml", "runlocal")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """`trained_once("coca", config)`: the folder of that run, which all workers share."""
    from babeldraw.train.loop import train

    def make(name, config):
        place = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            place = place.parent
        folder = place / "trained" / name
        folder.parent.mkdir(exist_ok=True)
        # The first worker trains while others that need the same run wait.
        with open(folder.parent / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "report.json").exists():
                train(config, str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def tokenizer_run(runlocal, trained_once):
    """The folder of a finished run of configs/demo/tokenizer.py:runlocal. Only to be read."""
    return trained_once("tokenizer", runlocal("demo/tokenizer.py"))


@pytest.fixture(scope="session")
def generator_run(runlocal, tokenizer_run, trained_once):
    """The folder of a finished run of configs/demo/text_to_image.py:runlocal. Only to be read."""
    config = runlocal("demo/text_to_image.py")
    config.tokenizer_run = str(tokenizer_run)
    return trained_once("text_to_image", config)


@pytest.fixture(scope="session")
def vim_run(runlocal, tokenizer_run, trained_once):
    """The folder of a finished run of configs/digits/vim.py:runlocal. Only to be read.

    On the tokenizer of the demo, which is there.
    """
    config = runlocal("digits/vim.py")
    config.tokenizer = runlocal("demo/tokenizer.py").tokenizer
    config.tokenizer_run = str(tokenizer_run)
    return trained_once("vim", config)


@pytest.fixture(scope="session")
def coca_run(runlocal, trained_once):
    """The folder of a finished run of configs/demo/coca.py:runlocal. Only to be read."""
    return trained_once("coca", runlocal("demo/coca.py"))


@pytest.fixture(scope="session")
def untrained_vae(tmp_path_factory):
    """The folder of a nested VAE that nobody trained: 16 x 24 px at 1, 2 and 4 pixels to a code."""
    import flax.linen as nn

    from babeldraw.config import to_dict
    from babeldraw.runs.opened import write_run
    from babeldraw.tokenizers.kinds import make_tokenizer
    from babeldraw.train.experiment import parse
    from tests.networks import NESTED_VAE

    experiment = parse(NESTED_VAE)
    tokenizer = make_tokenizer(experiment.tokenizer)
    params = jax.jit(lambda key: nn.unbox(tokenizer.init(key)))(jax.random.key(0))
    folder = tmp_path_factory.mktemp("untrained_vae") / "run"
    write_run(str(folder), to_dict(experiment), jax.device_get(params), source="nobody")
    return folder


@pytest.fixture
def cli(capsys):
    """`cli("train", ...)`: exit status, stdout and stderr of a command in this process."""
    from babeldraw.cli import main

    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        return stopped.value.code, *capsys.readouterr()

    return run
