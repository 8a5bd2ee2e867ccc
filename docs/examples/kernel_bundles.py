"""How many bundles a step of each splash kernel's grid has: the table in layers/kernel_costs.py.

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

from babeldraw.layers.kernels import Seen, splash_attention  # noqa: E402
from babeldraw.layers.masks import Causal, ConvShaped  # noqa: E402
from babeldraw.sharding.aot import topology_devices  # noqa: E402

TOPOLOGIES = {"v4": "v4:2x2x1", "v5p": "v5p:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}
HEADS, HEAD_DIM, BATCH = 4, 64, 2
# Name, who sees whom ("text": padding), queries, keys.
CASES = [
    ("causal", Seen(Causal()), 1024, 1024),
    ("conv", Seen(ConvShaped((32, 32))), 1024, 1024),
    ("all", None, 1024, 1024),
    ("text", "text", 1024, 128),
    ("text", "text", 128, 128),
]


def loss(mask, query, key, value, padding):
    mask = padding if mask == "text" else mask
    return jnp.sum(splash_attention(query, key, value, mask).astype(jnp.float32))


def bundles(topology: str, mask, queries: int, keys: int) -> dict[str, int]:
    """By kernel's name."""
    for file in glob.glob(f"{DUMP}/*"):
        os.remove(file)
    mesh = jax.sharding.Mesh(np.array(topology_devices(topology)[:1]), ("x",))
    place = jax.NamedSharding(mesh, jax.P())
    of = functools.partial(jax.ShapeDtypeStruct, sharding=place)
    query = of((BATCH, HEADS, queries, HEAD_DIM), jnp.bfloat16)
    key = of((BATCH, HEADS, keys, HEAD_DIM), jnp.bfloat16)
    gradient = jax.value_and_grad(functools.partial(loss, mask), argnums=(0, 1, 2))
    jax.jit(gradient).lower(query, key, key, of((BATCH, 1, 1, keys), bool)).compile()
    found = {}
    for file in glob.glob(f"{DUMP}/*splash*schedule-analysis_final_bundles.txt"):
        name = re.search(r"splash_mha_(fwd|dkv)", file).group(0)
        text = Path(file).read_text()
        found[name] = int(re.search(r"total scheduled bundles:\s+(\d+)", text).group(1))
    return found


if __name__ == "__main__":
    for generation, topology in TOPOLOGIES.items():
        for name, mask, queries, keys in CASES:
            print(generation, name, queries, keys, bundles(topology, mask, queries, keys))
