"""Finds codes that look alike, by k-means over a run's codebook, and keeps them in the run.

`babeldraw sample --clusters=16` then draws one of the 16 likeliest clusters and in it a code
(CogView2's cluster sampling), for any run that predicts the next token or refines codes. The labels
are in the run's clusters.npy.

Example:
  babeldraw clusters --workdir=runs/coglm --count=64
  babeldraw sample --workdir=runs/coglm --prompt="a red circle" --clusters=16
"""

import numpy as np
from absl import flags

from babeldraw.commands.flags import as_flags, required
from babeldraw.drawing.clusters import check_clustered, write_clusters
from babeldraw.drawing.drawer import open_drawer
from babeldraw.say import say, waiting
from babeldraw.tokenizers.clusters import cluster_codes


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("workdir", None, "A run folder of a generator.", flag_values=values)
    flags.DEFINE_integer("count", 500, "Clusters to find; CogView2's 500.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of what is drawn.", flag_values=values, lower_bound=0)


def run(values: flags.FlagValues) -> int:
    workdir = required(values, "workdir")
    with as_flags({"count": "count"}):
        find_clusters(workdir, values.count, values.seed)
    return 0


def find_clusters(workdir: str, count: int, seed: int = 0) -> np.ndarray:
    """Finds the clusters of a run's codes and keeps them in the run.

    Args:
      workdir: a run folder of a generator.
      count: clusters.
      seed: of what is drawn.

    Returns:
      The cluster of each code, int32 [V].

    Raises:
      UserError: no such run, one that draws codes in factors, or not as many different codes.
    """
    drawer, opened = open_drawer(workdir)
    check_clustered(drawer.generator, f"clusters are asked for of {workdir}")
    vectors = drawer.tokenizer.code_vectors(drawer.params["tokenizer"])
    with waiting(f"finding {count} clusters of {len(vectors)} codes"):
        labels = cluster_codes(vectors, count, seed)
    write_clusters(opened.folder, labels)
    sizes = np.bincount(labels)
    say(
        f"{len(sizes)} clusters of {sizes.min()} to {sizes.max()} codes in "
        f"{opened.folder.clusters_file}"
    )
    return labels
