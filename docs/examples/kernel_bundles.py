"""How many bundles a step of each kernel's grid has: the tables in estimate/kernel_costs.py.

    python docs/examples/kernel_bundles.py

The compiler prints the bundles of every kernel that it makes. Nothing runs, no TPU is needed; some
minutes on two cores.
"""

import functools
import glob
import os
import re
import tempfile
from pathlib import Path

DUMP = tempfile.mkdtemp(prefix="bundles")
# Read when libtpu is loaded.
os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from babeldraw.estimate.aot import topology_devices  # noqa: E402
from babeldraw.layers.kernels import Seen, fused_attention  # noqa: E402
from babeldraw.layers.masks import ByRole, Causal, ConvShaped  # noqa: E402
from babeldraw.layers.window_kernel import window_attention  # noqa: E402
from babeldraw.layers.windows import Window  # noqa: E402
from babeldraw.models.arrangement import SEES  # noqa: E402
from babeldraw.models.llama import SEES_SEEN  # noqa: E402

TOPOLOGIES = {"v4": "v4:2x2x1", "v5p": "v5p:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
# Several heads are one step of the kernels for short sequences and for windows, `heads_per_step` of
# each; the tables are of one.
HEADS, BATCH = 8, 2


def by_roles(pattern: ByRole, length: int) -> Seen:
    return Seen(pattern, roles=jnp.zeros((BATCH, length), jnp.int32))


# Name, kernel, who sees whom ("text": padding), queries, keys, values of a head.
CASES = [
    ("causal", "splash", Seen(Causal()), 1024, 1024, 64),
    ("conv", "splash", Seen(ConvShaped((32, 32))), 1024, 1024, 64),
    ("all", "splash", None, 1024, 1024, 64),
    ("text", "splash", "text", 1024, 128, 64),
    ("text", "splash", "text", 128, 128, 64),
    ("conv", "short", Seen(ConvShaped((32, 32))), 1024, 1024, 64),
    ("causal", "short", Seen(Causal()), 1024, 1024, 64),
    ("causal", "short", Seen(Causal()), 1024, 1024, 96),
    ("all", "short", None, 1024, 1024, 64),
    ("all", "short", None, 1024, 1024, 80),
    ("all", "short", None, 1024, 1024, 128),
    ("text", "short", "text", 1024, 128, 64),
    ("text", "short", "text", 128, 128, 64),
    ("packed", "short", None, 33, 33, 48),
    ("causal", "short", Seen(Causal()), 256, 256, 64),
    ("causal", "short", Seen(Causal()), 576, 576, 64),
    ("CogLM", "short", by_roles(SEES, 511), 511, 511, 64),
    ("padded", "short", by_roles(SEES_SEEN, 375), 375, 375, 64),
    ("around", "window", Window((60, 60)), 3600, 3600, 64),
    ("across", "window", Window((20, 20), (5, 5), 3), 3600, 400, 64),
]


def loss(kernel, mask, query, key, value, padding):
    if kernel == "window":
        out, log_sum = window_attention(mask.windows, False, query, key, value)
        return jnp.sum(out.astype(jnp.float32)) + jnp.sum(log_sum)
    mask = padding if mask == "text" else mask
    return jnp.sum(fused_attention(kernel, query, key, value, mask).astype(jnp.float32))


def bundles(topology: str, kernel: str, mask, queries: int, keys: int, dim: int) -> dict[str, int]:
    """By kernel's name."""
    for file in glob.glob(f"{DUMP}/*"):
        os.remove(file)
    mesh = jax.sharding.Mesh(np.array(topology_devices(topology)[:1]), ("x",))
    place = jax.NamedSharding(mesh, jax.P())
    of = functools.partial(jax.ShapeDtypeStruct, sharding=place)
    query = of((BATCH, HEADS, queries, dim), jnp.bfloat16)
    key = of((BATCH, HEADS, keys, dim), jnp.bfloat16)
    gradient = jax.value_and_grad(functools.partial(loss, kernel, mask), argnums=(0, 1, 2))
    jax.jit(gradient).lower(query, key, key, of((BATCH, 1, 1, keys), bool)).compile()
    found = {}
    for file in glob.glob(f"{DUMP}/*schedule-analysis_final_bundles.txt"):
        name = re.search(r"(splash_mha|short_attention|window_attention)_(fwd|dkv|bwd|dq)", file)
        if name is not None:
            text = Path(file).read_text()
            count = int(re.search(r"total scheduled bundles:\s+(\d+)", text).group(1))
            found[name.group(0)] = count
    return found


if __name__ == "__main__":
    for generation, topology in TOPOLOGIES.items():
        for name, kernel, mask, queries, keys, dim in CASES:
            counts = bundles(topology, kernel, mask, queries, keys, dim)
            print(generation, name, queries, keys, dim, counts, flush=True)
