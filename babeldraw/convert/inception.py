"""Weights of the Inception network of FID: pytorch-fid's state dict, and TensorFlow's graph.

Names of the first are those of pytorch-fid's `inception.py`. Those of the graph's constants were
read in torch-fidelity's conversion of it and in a listing of the graph's nodes; no real file of
either was at hand. Both hold the same numbers.
"""

from babeldraw.convert.table import Ignored, Row, Table
from babeldraw.judges.inception import BLOCKS, STEM, Branch

# Names of one norm's arrays, ours and theirs.
TORCH_NORM = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
GRAPH_NORM = {
    "scale": "gamma",
    "bias": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}
NO_BIAS = "of the classes, which the Inception Score leaves out"


def units() -> dict[str, tuple[str, str]]:
    """Ours: (torch's, the graph's), the name of each convolution with its norm."""
    found = {}
    for number, name in enumerate(STEM):
        found[name] = (name.capitalize(), f"conv_{number}" if number else "conv")
    for number, (block, branches) in enumerate(BLOCKS.items()):
        graph_block = f"mixed_{number}" if number else "mixed"
        for branch, tower in zip(branches, _towers(branches), strict=True):
            for name, conv in zip(branch.names, _convolutions(branch), strict=True):
                theirs = "/".join(part for part in (graph_block, tower, conv) if part)
                found[f"{block}/{name}"] = (f"{block.capitalize()}.{name}", theirs)
    return found


def _towers(branches: tuple[Branch, ...]) -> list[str]:
    """Of each branch; a single filter is none, and the others are counted."""
    found, count = [], 0
    for branch in branches:
        alone = not branch.pool and len(branch.filters) == 1
        found.append("" if alone or not branch.filters else f"tower_{count}" if count else "tower")
        count += bool(found[-1])
    return found


def _convolutions(branch: Branch) -> list[str]:
    """Of each filter of a branch: conv, conv_1, ...; a fork counts anew in `mixed`."""
    fork = 2 if branch.forked else 0
    names = [f"conv_{i}" if i else "conv" for i in range(len(branch.filters) - fork)]
    return names + ["mixed/conv", "mixed/conv_1"][:fork]


def _torch() -> Table:
    rows = []
    for ours, (theirs, _) in units().items():
        name = f"inception/{ours}"
        rows.append(Row(f"{name}/weight", f"{theirs}.conv.weight", "o i h w -> h w i o"))
        rows += [Row(f"{name}/{own}", f"{theirs}.bn.{norm}") for own, norm in TORCH_NORM.items()]
    return (
        *rows,
        Row("inception/logits/weight", "fc.weight", "o i -> i o"),
        Ignored(r"fc\.bias", NO_BIAS),
        Ignored(r".*\.num_batches_tracked", "counters"),
        Ignored(r"AuxLogits\..*", "of training"),
    )


def _graph() -> Table:
    rows = []
    for ours, (_, theirs) in units().items():
        name = f"inception/{ours}"
        rows.append(Row(f"{name}/weight", f"{theirs}/conv2d_params"))
        rows += [
            Row(f"{name}/{own}", f"{theirs}/batchnorm/{norm}") for own, norm in GRAPH_NORM.items()
        ]
    return (
        *rows,
        Row("inception/logits/weight", "softmax/weights"),
        Ignored(r"softmax/biases", NO_BIAS),
        # Sizes, axes and constants of the preprocessing, such as Sub/y; none in a tower or a conv.
        Ignored(
            r"(?!.*(conv2d_params|/batchnorm/)).*", "constants that are no weights: sizes and axes"
        ),
    )


PYTORCH_FID: Table = _torch()
GRAPH: Table = _graph()
