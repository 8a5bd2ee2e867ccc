"""What several kinds of experiment ask of their sections, said before anything is compiled."""

from collections.abc import Mapping

from babeldraw.config import require
from babeldraw.data.config import DataConfig
from babeldraw.data.records import Source
from babeldraw.data.sources import WITHOUT_PATH
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.condition import Condition
from babeldraw.sharding.layout import Layout, platform, use
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.train.settings import TrainConfig

# Layouts in which a network of convolutions does the same on all chips of `model`.
WITH_CONVOLUTIONS = ("data_parallel", "fsdp", "in_layer")


def need_read_path(data: DataConfig, where: str) -> None:
    """Raises `UserError` for a path that the source, by default the shapes world, passes over.

    Args:
      data: the section.
      where: what the user calls it.
    """
    require(
        not data.path or data.source not in WITHOUT_PATH,
        f"{where}.path is {data.path!r} and {where}.source {data.source!r}, which reads no files; "
        f"set {where}.source to that of the path, such as 'folder' or 'texts', or leave it out",
    )


def need_pictures(data: DataConfig) -> None:
    """Raises `UserError` for stored tokens."""
    require(
        data.source != "tokens",
        "config.data.source is 'tokens', which hold no pictures to learn from",
    )


def need_stored_states(condition: Condition, source: Source) -> None:
    """Raises `UserError` for data without the states that a condition reads, or with others."""
    if not condition.stored:
        return
    states = getattr(source, "states", None)
    require(
        states is not None,
        f"config.condition, of kind={condition.kind}, reads states that lie beside stored tokens "
        f"and {source.name} has none; make them with `babeldraw tokenize`, then `encode`, or "
        "take kind=t5 with stored=False",
    )
    wanted = condition.spec(1)["states"].shape[1:]
    require(
        states.spec["states"][0] == wanted,
        f"{source.name} has states of the shape {states.spec['states'][0]} beside its tokens "
        f"and config.condition asks for {wanted}; set length and width as they were encoded",
    )


def need_stored_levels(levels: tuple[str, ...] | None, level: str, source: Source) -> None:
    """Raises `UserError` for tokens of one level where several are drawn into, or the reverse.

    Args:
      levels: those that are drawn into; None: one alone.
      level: that one.
      source: of stored tokens.
    """
    stored = source.stored_levels
    require(
        bool(stored) == bool(levels),
        f"{source.name} holds codes of {'all levels' if stored else 'one level'} and "
        f"config.levels is {'not set' if stored else 'set'}; make tokens by `babeldraw "
        f"tokenize --level={'all' if levels else level}`",
    )


def need_whole_batches(train: TrainConfig, who: str) -> None:
    """Raises `UserError` for accumulation; `who` needs the whole batch at once, and why."""
    require(
        train.accumulation == 1,
        f"config.train.accumulation is {train.accumulation}; {who} needs 1",
    )


def need_whole_weights(mesh: MeshConfig) -> None:
    """Raises `UserError` for layouts of which convolutions, whole on each chip, know nothing."""
    require(
        mesh.rules in WITH_CONVOLUTIONS,
        f"config.mesh.rules is {mesh.rules}; convolutions are whole on every chip of `model`, so "
        f"one of {', '.join(WITH_CONVOLUTIONS)} is needed",
    )


def need_rules_alone(mesh: MeshConfig, whose: str) -> None:
    """Raises `UserError` for overrides of the rules."""
    require(
        not mesh.overrides,
        f"config.mesh.overrides is {mesh.overrides}; {whose} parameters follow the rules alone, so "
        "() is needed",
    )


def check_layout(
    layout: Layout,
    batch_size: int,
    accumulation: int,
    stacks: Mapping[str, TransformerConfig],
    together: tuple[int, str] = (1, ""),
) -> None:
    """Refuses sizes that the mesh does not divide.

    Args:
      layout: mesh and rules.
      batch_size: examples per step, over all devices.
      accumulation: parts that a batch is cut into.
      stacks: the transformers to be trained, by their path in the config.
      together: how many examples stay on one device, such as those of a packed row, and what they
        are, for the message.

    Raises:
      UserError: naming the field, its value and what would do.
    """
    mesh = layout.mesh.shape
    # Outside the stacks the stages are data parallelism too.
    shares = mesh["data"] * (layout.microbatches or mesh["stage"]) * accumulation * together[0]
    parts = f"{mesh['data']} data groups x {layout.microbatches} microbatches"
    if not layout.microbatches:
        parts = f"{mesh['data'] * mesh['stage']} devices"
    if accumulation > 1:
        parts += f" x config.train.accumulation={accumulation}"
    if together[0] > 1:
        parts += f" x the {together[0]} {together[1]}"
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


def check_looked_at(layout: Layout, batch_size: int, every: int) -> None:
    """Refuses a share of the batch, for the perceptual term, that leaves devices without work.

    Args:
      layout: mesh and rules.
      batch_size: pictures per step, over all devices.
      every: `config.perceptual.every`.

    Raises:
      UserError: naming the field, its value and what would do.
    """
    devices = layout.mesh.shape["data"] * layout.mesh.shape["stage"]
    require(
        batch_size % (every * devices) == 0,
        f"config.perceptual.every is {every}, so that the loss looks at every so many of the "
        f"{batch_size} pictures of config.train.batch_size, over {devices} devices; choose an "
        f"`every` that divides {batch_size // devices}",
    )


def without_kernel(layout: Layout, stacks: Mapping[str, TransformerConfig]) -> list[str]:
    """A line for each stack that trains without the attention kernel that its device has.

    Args:
      layout: mesh and rules.
      stacks: as of `check_layout`.
    """
    with use(layout):
        device = platform()
    return [
        f"{path}.attention_dropout is {stack.attention_dropout}, which no kernel has: training "
        f"computes attention in the plain form; 0 gives the {device.upper()}'s kernel back"
        for path, stack in stacks.items()
        if device != "cpu" and stack.attention_dropout and stack.compute.kernel == "auto"
    ]


def _check_stages(path: str, stack: TransformerConfig, stages: int) -> None:
    require(
        stack.blocks % stages == 0,
        f"{path}.blocks is {stack.blocks}, which config.mesh.stage={stages} does not divide; "
        "choose a number of stages that divides every stack",
    )
    require(
        stack.compute.remat == "full",
        f"{path}.compute.remat is {stack.compute.remat!r}; a pipelined stack keeps only the input "
        "of each block, so 'full' is needed",
    )


def _check_model_axis(path: str, stack: TransformerConfig, size: int) -> None:
    for name in ("heads", "hidden", "dim"):
        value = getattr(stack, name)
        require(
            value % size == 0,
            f"{path}.{name} is {value}, which config.mesh.model={size} does not divide; choose a "
            "model axis that divides it",
        )
