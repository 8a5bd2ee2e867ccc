"""A checkpoint is whole or not there, and comes back bit for bit, on any mesh."""

import contextlib
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import Checkpoints, on_first_device, placed, restore_subset

PROGRESS = {"batches": {"step": 3, "seed": 2**40, "fingerprint": "00ff"}, "elapsed": 1.25}
RNG = np.random.default_rng(0)
STATE = {
    "step": jnp.int32(3),
    "params": {
        "weight": jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32),
        "half": jnp.asarray(RNG.normal(size=(5,)), jnp.bfloat16),
    },
    "opt_state": (
        {"moment": jnp.asarray(RNG.integers(-127, 128, (8, 3)), jnp.int8), "none": None},
        jnp.asarray([np.inf, -np.inf, np.nan, -0.0], jnp.float32),
    ),
    "empty": {},
}
ABSTRACT = on_first_device(jax.eval_shape(lambda: STATE))


@flax.struct.dataclass
class State:
    """A state as recipes have it."""

    step: Any
    params: Any


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path)
    yield made
    made.close()


@pytest.fixture
def three(checkpoints):
    """With a checkpoint of step 3."""
    checkpoints.save(3, STATE, PROGRESS)
    checkpoints.wait()
    return checkpoints


def assert_same(restored, state):
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert new.dtype == old.dtype
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()


def test_everything_comes_back_bit_for_bit(three):
    assert three.latest_step() == 3
    state, progress = three.restore(3, ABSTRACT)
    assert_same(state, STATE)
    assert progress == PROGRESS


def test_a_relative_directory_will_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    with contextlib.closing(Checkpoints("run/checkpoints", report=said.append)) as made:
        made.save(3, STATE, PROGRESS)
        made.wait()
        assert_same(made.restore(3, ABSTRACT)[0], STATE)
    assert said == []
    step, state = restore_subset("run/checkpoints", ABSTRACT)
    assert step == 3
    assert_same(state, STATE)


def test_another_process_finds_it(three):
    other = Checkpoints(three.directory)
    assert other.latest_step() == 3
    assert_same(other.restore(3, ABSTRACT)[0], STATE)
    other.close()


def test_an_empty_folder_has_no_checkpoint(checkpoints, tmp_path):
    assert checkpoints.latest_step() is None
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"{folder} holds no checkpoint; train the run first"):
            restore_subset(folder, ABSTRACT)


def test_it_comes_back_onto_another_mesh(three):
    mesh = Mesh(jax.devices(), ("data",))

    def place(leaf):
        split = leaf.ndim > 0 and leaf.shape[0] == 8
        return NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec())

    state, _ = three.restore(3, placed(ABSTRACT, jax.tree.map(place, ABSTRACT)))
    assert_same(state, STATE)
    assert len(state["params"]["weight"].addressable_shards) == 8
    assert state["params"]["weight"].addressable_shards[0].data.shape == (1, 3)


def test_the_state_may_be_overwritten_while_it_is_written(checkpoints):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    before = np.arange(1_000_000, dtype=np.float32)
    x = jnp.asarray(before)
    checkpoints.save(1, {"x": x}, PROGRESS)
    for _ in range(3):
        x = step(x)
    checkpoints.wait()
    abstract = on_first_device({"x": jax.ShapeDtypeStruct(x.shape, x.dtype)})
    np.testing.assert_array_equal(checkpoints.restore(1, abstract)[0]["x"], before)


def test_only_the_last_ones_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 5, 9):
        checkpoints.save(step, STATE, PROGRESS)
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["5", "9"]


def test_a_step_that_is_there_is_left_alone(three):
    three.save(3, {"x": jnp.zeros(1)}, {})
    three.wait()
    assert_same(three.restore(3, ABSTRACT)[0], STATE)


def test_a_part_is_restored_alone(three):
    three.save(4, {**STATE, "step": jnp.int32(4)}, PROGRESS)
    three.wait()
    step, part = restore_subset(three.directory, {"params": {"half": ABSTRACT["params"]["half"]}})
    assert step == 4
    assert_same(part, {"params": {"half": STATE["params"]["half"]}})


def test_another_step_than_the_newest_may_be_asked(three):
    three.save(4, {**STATE, "step": jnp.int32(4)}, PROGRESS)
    three.wait()
    for asked in (3, 4):
        assert restore_subset(three.directory, {"step": ABSTRACT["step"]}, asked)[0] == asked
    line = "holds no checkpoint of step 7; there are 3, 4 (config.train.keep_every keeps more)"
    with pytest.raises(UserError, match=re.escape(line)):
        restore_subset(three.directory, ABSTRACT, 7)


def other_shape(state):
    weight = jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=state["step"].sharding)
    return {**state, "params": {**state["params"], "weight": weight}}


def other_name(state):
    params = {f"{name}s": leaf for name, leaf in state["params"].items()}
    return {**state, "params": params}


def one_less(state):
    return {name: part for name, part in state.items() if name != "params"}


@pytest.mark.parametrize("change", [other_shape, other_name, one_less])
def test_the_checkpoint_of_another_model_is_refused(three, change):
    with pytest.raises(UserError, match="3 does not fit this config") as error:
        three.restore(3, change(ABSTRACT))
    assert "\n" not in str(error.value)


def test_shares_of_codes_that_older_runs_kept_are_left_aside(checkpoints):
    checkpoints.save(
        3, {**STATE, "extra": {"code_share": jnp.ones(4), "judge": jnp.ones(2)}}, PROGRESS
    )
    checkpoints.wait()
    judge = {"judge": jax.ShapeDtypeStruct((2,), jnp.float32, sharding=ABSTRACT["step"].sharding)}
    state, _ = checkpoints.restore(3, {**ABSTRACT, "extra": judge})
    assert_same(state, {**STATE, "extra": {"judge": jnp.ones(2)}})
    with pytest.raises(UserError, match="it also holds extra/judge"):
        checkpoints.restore(3, ABSTRACT)


def test_weights_without_an_optimizer_are_not_gone_on_with(checkpoints):
    checkpoints.save(3, {"params": STATE["params"]}, PROGRESS)
    checkpoints.wait()
    with pytest.raises(UserError, match="came from elsewhere, without an optimizer; .*starts$"):
        checkpoints.restore(3, State(ABSTRACT["step"], ABSTRACT["params"]))


@pytest.mark.parametrize("change", [other_shape, other_name])
def test_no_part_of_another_model_is_restored(three, change):
    with pytest.raises(UserError, match="3 does not fit this config") as error:
        restore_subset(three.directory, {"params": change(ABSTRACT)["params"]})
    assert "\n" not in str(error.value)


def test_a_half_written_checkpoint_is_not_there(three):
    """Orbax writes beside and renames: what a kill leaves has another name."""
    whole = three.directory / "3"
    for name in ("4.orbax-checkpoint-tmp", "5.orbax-checkpoint-tmp-1700000000"):
        torn = three.directory / name / "state"
        torn.mkdir(parents=True)
        (torn / "d").write_bytes(b"torn")
    resumed = Checkpoints(three.directory)
    assert resumed.latest_step() == 3
    assert_same(resumed.restore(3, ABSTRACT)[0], STATE)
    part = functools.partial(restore_subset, three.directory)
    assert part({"step": ABSTRACT["step"]})[0] == 3
    resumed.save(4, STATE, PROGRESS)
    resumed.close()
    assert whole.exists() and part({"step": ABSTRACT["step"]})[0] == 4


# ------------------------------------------------------------------ damage, met by who only reads


def damage(folder):
    """Other bytes in the largest file of a checkpoint, its size unchanged."""
    files = (path for path in (folder / "state").rglob("*") if path.is_file())
    file = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    for at in range(len(data) // 4, len(data) - 8, max(40, len(data) // 200)):
        data[at] ^= 0x15
    file.write_bytes(data)


def cut(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose(folder):
    shutil.rmtree(folder / "state")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [damage, cut, lose, empty])
def test_a_part_of_a_damaged_checkpoint_is_named_and_the_one_before_it_read(three, caplog, fault):
    later = {**STATE, "params": jax.tree.map(jnp.zeros_like, STATE["params"])}
    three.save(4, later, PROGRESS)
    three.wait()
    fault(Path(three.directory / "4"))
    with caplog.at_level("WARNING", logger="absl"):
        step, part = restore_subset(three.directory, {"params": ABSTRACT["params"]})
    assert step == 3
    assert_same(part, {"params": STATE["params"]})
    assert f"{three.directory}/4 is damaged" in caplog.text
    assert "step 3 of" in caplog.text and "is whole" in caplog.text
    assert (three.directory / "4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [damage, lose])
def test_a_damaged_checkpoint_that_is_alone_is_refused(three, fault):
    fault(Path(three.directory / "3"))
    with pytest.raises(UserError, match="3 is damaged.*; there is no whole one before it") as error:
        restore_subset(three.directory, {"params": ABSTRACT["params"]})
    assert "\n" not in str(error.value)


def test_what_is_not_read_is_not_checked_for(three):
    """The digest of a part is found under its name, in whatever kind of tree the whole lay."""
    state = State(**{name: STATE[name] for name in ("step", "params")})
    three.save(4, state, PROGRESS)
    three.wait()
    step, part = restore_subset(three.directory, {"params": ABSTRACT["params"]})
    assert step == 4
    assert_same(part, {"params": STATE["params"]})


def test_evaluation_leaves_a_damaged_checkpoint_where_it_is(three, caplog):
    three.save(4, STATE, PROGRESS)
    three.wait()
    damage(Path(three.directory / "4"))
    with caplog.at_level("WARNING", logger="absl"):
        step, state, _ = three.restore_newest(ABSTRACT, put_aside=False)
    assert step == 3 and (three.directory / "4").exists()
    assert_same(state, STATE)
