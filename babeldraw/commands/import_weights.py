"""Makes files of weights from what others published; third_party/README.md tells where from.

--kind=vgg_lpips: VGG16 and LPIPS's linear weights, for config.perceptual.file. Without --lpips all
channels weigh the same, which is the plain distance of normalised VGG features. Inputs are
.safetensors, .npz, or .pth where torch is installed.

Example:
  babeldraw import --kind=vgg_lpips --vgg=vgg16-397923af.pth --lpips=vgg.pth \\
      --out=vgg_lpips.safetensors
"""

from pathlib import Path

from absl import flags
from safetensors.numpy import save_file

from babeldraw.commands.flags import make_folder, required
from babeldraw.convert.files import read_arrays, sha256
from babeldraw.convert.vgg import to_perceptual
from babeldraw.errors import UserError
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.say import say

KINDS = ("vgg_lpips",)


def define(values: flags.FlagValues, argv: list[str]) -> None:
    flags.DEFINE_string("kind", None, f"What to make: {', '.join(KINDS)}.", flag_values=values)
    flags.DEFINE_string("vgg", None, "torchvision's VGG16 state dict.", flag_values=values)
    flags.DEFINE_string("lpips", "", "LPIPS's linear weights for VGG16.", flag_values=values)
    flags.DEFINE_string("out", None, "The .safetensors file to write.", flag_values=values)


def run(values: flags.FlagValues) -> int:
    kind = required(values, "kind")
    if kind not in KINDS:
        raise UserError(f"--kind={kind} is not known; the kinds are {', '.join(KINDS)}")
    inputs = {"--vgg": required(values, "vgg"), "--lpips": values.lpips}
    out = Path(required(values, "out"))
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out} must end in .safetensors")
    read = {flag: read_arrays(file, flag) for flag, file in inputs.items() if file}
    arrays = to_perceptual(read["--vgg"], read["--lpips"] if values.lpips else None)
    make_folder(out.parent, f"--out={out}")
    hashes = {flag: sha256(file) for flag, file in inputs.items() if file}
    linear = "lpips" if values.lpips else "uniform"
    metadata = {"kind": kind, "linear": linear}
    metadata |= {f"sha256_of_{flag.lstrip('-')}": digest for flag, digest in hashes.items()}
    # Beside it and renamed: a file that stands there is whole and was checked.
    partial = out.with_name(f".{out.name}")
    save_file(arrays, partial, metadata)
    try:
        PerceptualNetwork(PerceptualConfig(str(partial))).load()
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    for flag, digest in {**hashes, "--out": sha256(str(out))}.items():
        say(f"sha256 {digest}  {flag}={inputs.get(flag, out)}")
    say(f"{out}: VGG16 with {'the weights of LPIPS' if values.lpips else 'uniform weights'}")
    return 0
