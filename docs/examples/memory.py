"""The memory that a training step is predicted to take against what it takes, on CPU devices.

    python docs/examples/memory.py

compiles each config's real step as `babeldraw compile` does, here for CPU devices, and reads the
same figures from the compiler; then runs it. All devices of the CPU share one process, so both
columns are sums over them. What a run takes: before it the process's memory in use with the state
and a batch in place, over what it was without; then the highest while steps run (Linux: VmHWM).
"""

import argparse
import ctypes
import gc
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Config, fields to set, devices.
CASES = (
    ("photographs/tokenizer", {"train.batch_size": 16}, 1),
    ("demo/tokenizer_gan", {"adversarial.start_step": 0}, 1),
    ("demo/text_to_image", {"train.batch_size": 64}, 1),
    ("demo/text_to_image", {"train.batch_size": 64}, 4),
    ("demo/text_to_image", {"train.batch_size": 64, "mesh.rules": "fsdp"}, 4),
    ("demo/text_to_image", {"train.batch_size": 64, "mesh.rules": "in_layer", "mesh.model": 4}, 4),
)
# So many that the R1 penalty, every 16th step's, is among them.
STEPS = 17
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, help="one of them, in this process")
    args = parser.parse_args()
    if args.case is not None:
        print(json.dumps(measure(*CASES[args.case])))
        return
    print("| config | devices | state and batch, MiB | measured | temporaries, MiB | measured |")
    print("|---|---|---|---|---|---|")
    for number, (name, fields, devices) in enumerate(CASES):
        # glibc keeps what is freed in small pieces; asked so, it gives large ones back at once.
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        }
        command = [sys.executable, __file__, f"--case={number}"]
        said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        row = json.loads(said.stdout.splitlines()[-1])
        shown = ", ".join((name, *(f"{field}={value}" for field, value in fields.items())))
        cells = " | ".join(
            f"{row['predicted'][part]:,.0f} | {row['measured'][part]:,.0f}"
            for part in ("arguments", "temporaries")
        )
        print(f"| {shown} | {devices} | {cells} |", flush=True)


def measure(name: str, fields: dict, devices: int) -> dict[str, dict[str, float]]:
    import jax
    import numpy as np

    from babeldraw.commands.compile_train import lowered_step, memory
    from babeldraw.sharding.layout import make_layout
    from babeldraw.sharding.mesh import make_mesh
    from babeldraw.train.experiment import parse
    from babeldraw.train.presets import load_config
    from babeldraw.train.step import state_shardings

    config = load_config(f"configs/{name}.py", ROOT / "pyproject.toml")
    config.update_from_flattened_dict(fields)
    experiment = parse(config)
    objective = experiment.make_objective()
    layout = make_layout(experiment.mesh, make_mesh(experiment.mesh))
    assert layout.mesh.size == devices
    step = lowered_step(objective, layout)[0].compile()
    predicted = {part: 1024 * devices * gib for part, gib in memory(step).items()}

    places = state_shardings(objective, layout)
    make = jax.jit(objective.init, out_shardings=places).lower(jax.random.key(0)).compile()
    key = jax.device_put(jax.random.key(1), step.input_shardings[0][2])
    before = resident()
    state = make(jax.random.key(0))
    batch = {
        field: jax.device_put(np.ones(leaf.shape, leaf.dtype), step.input_shardings[0][1][field])
        for field, leaf in objective.batch_spec().items()
    }
    jax.block_until_ready((state, batch))
    arguments = resident() - before
    # The first step warms threads up.
    state, _ = jax.block_until_ready(step(state, batch, key))
    quiet = resident()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM from here on.
    for _ in range(STEPS):
        state, _ = jax.block_until_ready(step(state, batch, key))
    return {
        "predicted": predicted,
        "measured": {"arguments": arguments, "temporaries": status("VmHWM") - quiet},
    }


def resident() -> float:
    """MiB in use, what was freed given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def status(name: str) -> float:
    """A figure of /proc/self/status, in MiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MIB for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
