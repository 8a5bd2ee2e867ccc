"""Strict tests: eight simulated CPU devices, no silent dtype or rank promotion.

The settings in the environment are read when jax is imported, and reach the processes that tests
start; the strict ones hold for this process alone.
"""

import os
from pathlib import Path

import pytest

DEVICES = 8
# Where pytest keeps its own cache, so that `pytest --cache-clear` empties it.
COMPILED = Path(__file__).parents[1] / ".pytest_cache" / "d" / "jax"

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={DEVICES}"]
).strip()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_sessionstart(session):
    """Stops at once where jax was imported too early to see the eight devices."""
    del session
    devices = jax.devices()
    if len(devices) != DEVICES or devices[0].platform != "cpu":
        raise pytest.UsageError(f"tests need {DEVICES} CPU devices, jax shows {devices}")
