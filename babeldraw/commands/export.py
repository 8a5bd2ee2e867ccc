"""Writes weights as others name and lay them out: `babeldraw import` backwards.

--weights is a file that `babeldraw import` made; each flag of the kind's files names one to write,
and a file that is already there is refused, for the same flags name the originals to `import`.

--kind=maskgit_vqgan and the like: of a run's weights, all of a network; --flax=FILE.msgpack writes
Google's layouts as Flax serializes them.

--kind=run: the newest weights of a run as plain files, with its config and vocabulary; --half
rounds them to float16, and `import` gives float32 again.

Example:
  babeldraw export --kind=vgg_lpips --weights=vgg_lpips.safetensors --vgg=vgg16.safetensors \\
      --lpips=lpips.safetensors
  babeldraw export --kind=run --workdir=runs/demo/text_to_image --folder=my_generator
"""

from pathlib import Path

from absl import flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.commands.import_network import FLAX, export_network
from babeldraw.commands.import_weights import (
    RUN,
    check_flags,
    define_kinds,
    kind_of,
    safetensors_file,
)
from babeldraw.convert.files import sha256
from babeldraw.convert.kinds import Kind
from babeldraw.convert.networks import Network
from babeldraw.convert.run import export_run
from babeldraw.errors import UserError
from babeldraw.runs.weights import flatten, read_params, write_weights
from babeldraw.say import say


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_kinds(values)
    flags.DEFINE_string(
        "weights",
        None,
        "The .safetensors file to read; of a run: ema or params, none for those in use.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "half", False, f"{RUN}: rounds weights to float16, half the size.", flag_values=values
    )


def run(values: flags.FlagValues) -> int:
    run_s, others = ("workdir", "folder", "half"), ("weights",)
    check_flags(values, {RUN: run_s + others, Network: ("workdir", *others), Kind: others})
    if values.kind == RUN:
        folder, workdir = required(values, "folder"), required(values, "workdir")
        count = export_run(workdir, Path(folder), values.weights or "", values.half)
        say(f"{folder}: {count} arrays of {workdir}, its config and words")
        return 0
    name, kind, files = kind_of(values)
    weights = "" if isinstance(kind, Network) else required(values, "weights")
    if not files:
        takes = ", ".join(f"--{flag}" for flag in kind.flags)
        raise UserError(f"no file to write is named; --kind={name} takes {takes}")
    outs = {
        # Google's layouts go back as they came.
        flag: Path(file) if flag == "flax" and file.endswith(FLAX) else safetensors_file(flag, file)
        for flag, file in files.items()
    }
    for flag, out in outs.items():
        if out.exists():
            raise UserError(f"--{flag}={out} is there already; give another name, or remove it")
    if isinstance(kind, Network):
        export_network(name, values, outs)
        return 0
    params = flatten(read_params(weights, "--weights", kind.abstract()))
    kind.check(params, f"--weights={weights}")
    for flag, out in outs.items():
        tensors = kind.write(params, flag)
        make_folder(out.parent, f"--{flag}={out}")
        write_weights(out, tensors, {"kind": name})
        say(f"sha256 {sha256(str(out))}  --{flag}={out}: {len(tensors)} arrays")
    return 0
