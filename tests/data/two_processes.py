"""One of two hosts, a process each, by `jax.distributed`: prints what its batches hold.

python two_processes.py PROCESS PROCESSES PORT SHARDS
"""

import hashlib
import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from babeldraw.data.mixture import MixtureSource
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.shards import ShardSource

STEPS = 5


def mixture(path):
    return MixtureSource([ShardSource(path, s) for s in ("train", "test")], [3, 1])


def batches_of(path, index, count):
    return TrainBatches(
        mixture(path),
        batch_size=16,
        image_size=(12, 12),
        seed=0,
        crop="dalle_tokenizer",
        process_index=index,
        process_count=count,
    )


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def main():
    process, count, port, path = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", int(count), int(process))
    batches, seen = batches_of(path, jax.process_index(), jax.process_count()), []
    for _ in range(STEPS):
        batch = multihost_utils.process_allgather(next(batches), tiled=True)
        seen.append({key: digest(array) for key, array in batch.items()})
    batches.close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
