"""Whether a config's sizes fit the mesh, said before anything is compiled."""

from collections.abc import Mapping

from babeldraw.config import require
from babeldraw.layers.block import TransformerConfig
from babeldraw.sharding.layout import Layout


def check_layout(
    layout: Layout, batch_size: int, accumulation: int, stacks: Mapping[str, TransformerConfig]
) -> None:
    """Refuses sizes that the mesh does not divide.

    Args:
      layout: mesh and rules.
      batch_size: examples per step, over all devices.
      accumulation: parts that a batch is cut into.
      stacks: the transformers to be trained, by their path in the config.

    Raises:
      UserError: naming the field, its value and what would do.
    """
    mesh = layout.mesh.shape
    # Outside the stacks the stages are data parallelism too.
    shares = mesh["data"] * (layout.microbatches or mesh["stage"]) * accumulation
    parts = f"{mesh['data']} data groups x {layout.microbatches} microbatches"
    if not layout.microbatches:
        parts = f"{mesh['data'] * mesh['stage']} devices"
    if accumulation > 1:
        parts += f" x config.train.accumulation={accumulation}"
    require(
        batch_size % shares == 0,
        f"config.train.batch_size is {batch_size}, which {parts} do not divide; choose a multiple "
        f"of {shares}",
    )
    for path, stack in stacks.items():
        if layout.pipelined:
            _check_stages(path, stack, mesh["stage"])
        if layout.preset.used["heads"] == "model":
            _check_model_axis(path, stack, mesh["model"])


def _check_stages(path: str, stack: TransformerConfig, stages: int) -> None:
    require(
        stack.blocks % stages == 0,
        f"{path}.blocks is {stack.blocks}, which config.mesh.stage={stages} does not divide; "
        "choose a number of stages that divides every stack",
    )
    require(
        stack.remat == "full",
        f"{path}.remat is {stack.remat!r}; a pipelined stack keeps only the input of each block, "
        "so 'full' is needed",
    )


def _check_model_axis(path: str, stack: TransformerConfig, size: int) -> None:
    for name in ("heads", "hidden", "dim"):
        value = getattr(stack, name)
        require(
            value % size == 0,
            f"{path}.{name} is {value}, which config.mesh.model={size} does not divide; choose a "
            "model axis that divides it",
        )
