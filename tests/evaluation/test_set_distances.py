"""The evaluators that compare sets of pictures, on a network whose features can be computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from babeldraw.data import shapes
from babeldraw.data.config import DataConfig
from babeldraw.errors import UserError
from babeldraw.evaluation import feature_sets
from babeldraw.evaluation.base import Context, HalfDone
from babeldraw.evaluation.distances import Gaussian, frechet_distance, inside, squared_mmd
from babeldraw.evaluation.drawn_distance import DrawnDistance, DrawnDistanceConfig
from babeldraw.evaluation.moments import Moments
from babeldraw.evaluation.picture_sets import PicturesWriter
from babeldraw.evaluation.protocols import PROTOCOLS
from babeldraw.evaluation.reconstruction_distance import (
    ReconstructionDistance,
    ReconstructionDistanceConfig,
)
from babeldraw.judges.features import NETWORKS
from babeldraw.models.conditions import ClassCondition
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.sharding.mesh import MeshConfig, make_mesh

SIDE, NUM, D = 32, 44, 6
RFD = ReconstructionDistanceConfig("cells", "here", NUM, 8, resamples=20)
FD = DrawnDistanceConfig(
    "cells", "here", NUM, 8, resamples=20, sampling=SamplingConfig(guidance=2.0)
)
WEIGHT = np.random.default_rng(0).normal(0, 1, (12, D)).astype(np.float32)


def cells(weight, images):
    """The colours of four cells, mixed."""
    b = images.shape[0]
    colours = jnp.mean(images.reshape(b, 2, SIDE // 2, 2, SIDE // 2, 3), axis=(2, 4))
    return colours.reshape(b, 12) @ weight


FEATURES = jax.tree_util.Partial(cells, WEIGHT)


def context(devices=2, half_done=None):
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    data = DataConfig(num_examples=100)
    condition = ClassCondition(5)
    return Context(data, (SIDE, SIDE), 0, mesh, condition=condition, half_done=half_done)


@functools.cache
def originals():
    return pictures("test")


def pictures(split):
    images = [shapes.example(i, split, SIDE, 0)[0] for i in range(NUM)]
    return np.stack(images).astype(np.float32) / 255


def features(images):
    return np.asarray(cells(WEIGHT, np.asarray(images, np.float32)))


def darker(images):
    return 0.7 * images + 0.1 * jnp.square(images)


def rfd(config=RFD, change=darker, **of):
    def reconstruct(state, batch):
        return change(batch["image"].astype(jnp.float32) / 255), None

    return ReconstructionDistance(reconstruct, config, context(**of), FEATURES)


def generate(state, class_B, keys_B, settings, guided):
    """Noise about a colour of the class; guidance makes it brighter."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (SIDE, SIDE, 3)))(keys_B)
    colour = jnp.broadcast_to(class_B.astype(jnp.float32)[:, None, None, None] / 10, noise.shape)
    return colour + 0.3 * noise + (0.2 if guided else 0.0)


def fd(config=FD, generate=generate, **of):
    return DrawnDistance(generate, config, context(**of), FEATURES)


def gaussian(x_ND):
    return Gaussian.of(Moments.of(x_ND))


def test_reconstructions_are_compared_as_a_set_after_rounding():
    images = np.round(darker(originals()) * 255) / 255
    made, true = features(images), features(originals())
    found = dict(rfd().run(None))
    assert found["fd_cells"] == pytest.approx(
        frechet_distance(gaussian(made), gaussian(true)), 1e-4
    )
    assert found["kid_cells"] == pytest.approx(squared_mmd(made, true), rel=1e-4)
    assert found["precision_cells"] == pytest.approx(inside(made, true).mean())
    assert found["recall_cells"] == pytest.approx(inside(true, made).mean())
    assert {figure.num for figure in found.values()} == {NUM}
    assert all(f.interval.low <= f <= f.interval.high for f in found.values())
    assert dict(rfd(change=lambda x: x).run(None))["fd_cells"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("make", [rfd, fd])
def test_any_batches_on_any_devices_give_the_same(make):
    config = RFD if make is rfd else FD
    small, large = (dataclasses.replace(config, batch_size=size) for size in (4, 48))
    one = dict(make(small, devices=1).run(None))
    assert one == pytest.approx(dict(make(large, devices=8).run(None)), rel=1e-6)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(("make", "after"), [(rfd, 1), (rfd, 6), (fd, 4), (fd, 9), (fd, 15)])
def test_killed_and_gone_on_gives_the_same(make, after, monkeypatch, tmp_path, capsys):
    expected = dict(make().run(None))
    half_done = HalfDone(epath.Path(tmp_path), "weights of step 3")
    monkeypatch.setattr(feature_sets, "SAVE_EVERY", 0.0)
    done, batch_done = [], feature_sets.Progress.batch_done

    def killed_after(progress):
        batch_done(progress)
        done.append(progress.done)
        if len(done) == after:
            raise Killed

    monkeypatch.setattr(feature_sets.Progress, "batch_done", killed_after)
    with pytest.raises(Killed):
        dict(make(half_done=half_done).run(None))
    assert dict(make(half_done=half_done).run(None)) == expected
    # Each batch of eight was done once: six of a set, and of generators three sets.
    assert len(done) == 6 * (1 if make is rfd else 3)
    assert "goes on after" in "".join(capsys.readouterr()) and not [*tmp_path.iterdir()]


def test_what_was_done_with_other_weights_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_sets, "SAVE_EVERY", 0.0)
    folder = epath.Path(tmp_path)
    monkeypatch.setattr(feature_sets.Progress, "finish", lambda self: None)
    dict(rfd(half_done=HalfDone(folder, "step 3")).run(None))
    (first,) = tmp_path.iterdir()
    brighter = functools.partial(jnp.add, 0.1)
    found = dict(rfd(change=brighter, half_done=HalfDone(folder, "step 4")).run(None))
    assert found == dict(rfd(change=brighter).run(None)) and len([*tmp_path.iterdir()]) == 2
    # A file that the disk has damaged is begun anew.
    first.write_bytes(first.read_bytes()[:-100])
    assert dict(rfd(half_done=HalfDone(folder, "step 3")).run(None)) == dict(rfd().run(None))


def test_another_split_may_be_compared_with():
    images = pictures("train")
    evaluator = rfd(dataclasses.replace(RFD, split="train"))
    made, true = features(np.round(darker(images) * 255) / 255), features(images)
    expected = frechet_distance(gaussian(made), gaussian(true))
    assert dict(evaluator.run(None))["fd_cells"] == pytest.approx(expected, 1e-4)
    assert evaluator.protocol()["pictures"]["split"] == "train"


def test_a_generator_is_measured_with_and_without_guidance():
    found = dict(fd().run(None))
    classes = np.arange(NUM, dtype=np.int32) % 5
    keys = jax.vmap(jax.random.key)(np.arange(NUM))
    for suffix, guided in (("", True), ("_without_guidance", False)):
        images = np.clip(generate(None, jnp.asarray(classes), keys, None, guided), 0, 1)
        drawn = features(np.round(images * 255) / 255)
        expected = frechet_distance(gaussian(drawn), gaussian(features(originals())))
        assert found[f"fd_cells{suffix}"] == pytest.approx(expected, rel=1e-4)
    assert found["fd_cells"] != found["fd_cells_without_guidance"] and found["guidance"] == 2
    plain = dict(fd(dataclasses.replace(FD, sampling=SamplingConfig())).run(None))
    assert [*plain] == ["guidance", "fd_cells", "kid_cells", "precision_cells", "recall_cells"]
    assert plain["fd_cells"] == found["fd_cells_without_guidance"]


def test_a_file_of_statistics_stands_for_the_true_pictures(tmp_path):
    file = str(tmp_path / "true.npz")
    own = dict(fd(dataclasses.replace(FD, write_reference=file)).run(None))
    read = dict(fd(dataclasses.replace(FD, reference=file)).run(None))
    assert {name: own[name] for name in read} == pytest.approx(read, rel=1e-9)
    assert [*read] == ["guidance", "fd_cells", "fd_cells_without_guidance"]
    other = dataclasses.replace(RFD, reference=file, network="vgg16")
    with pytest.raises(UserError, match="rfd.reference: .* of cells and those of vgg16 are needed"):
        rfd(other).check()
    with pytest.raises(UserError, match=r"of pictures of \(32, 32\) and these are of \(32, 16\)"):
        feature_sets.open_reference(dataclasses.replace(FD, reference=file), D, (32, 16))


def test_features_beyond_those_kept_leave_the_running_sums():
    few = dict(rfd(dataclasses.replace(RFD, keep=10)).run(None))
    assert [*few] == ["fd_cells"] and few["fd_cells"].interval is None
    assert few["fd_cells"] == pytest.approx(dict(rfd().run(None))["fd_cells"], rel=1e-9)


def test_one_line_for_each_mistake():
    with pytest.raises(UserError, match="rfd compares 5 pictures by cells, which has 6 features"):
        rfd(dataclasses.replace(RFD, num_examples=5)).check()
    with pytest.raises(UserError, match="fd.num_examples is 1; at least 2 is needed"):
        dataclasses.replace(FD, num_examples=1)
    lost = lambda *of: jnp.where(jnp.arange(3) == 1, jnp.nan, generate(*of))  # noqa: E731
    with pytest.raises(UserError, match="8 of 8 drawn pictures have NaN or infinite pixels"):
        dict(fd(generate=lost).run(None))
    with pytest.raises(UserError, match="features of 8 of 8 pictures are not finite: the pictures"):
        dict(rfd(change=lambda x: x * jnp.float32(jnp.nan)).run(None))


def test_no_more_features_are_held_than_are_kept():
    rng, own = np.random.default_rng(0), feature_sets.FeatureSet("some", D, keep=10)
    parts = [rng.normal(size=(8, D)).astype(np.float32) for _ in range(100)]
    for part in parts:
        own.add(part)
    assert sum(map(len, own._new)) == 10
    assert own.features is None and own.pooled.num == 800
    np.testing.assert_array_equal(own.arrays()["kept"], np.concatenate(parts[:2])[:10])


# ------------------------------------------------------------------ named protocols, samples


def test_more_pictures_may_be_drawn_than_true_ones_and_are_written(tmp_path):
    file = tmp_path / "drawn.npz"
    config = dataclasses.replace(FD, num_drawn=50, write_samples=str(file))
    found = dict(fd(config).run(None))
    classes = np.arange(50, dtype=np.int32) % 5
    keys = jax.vmap(jax.random.key)(np.arange(50))
    images = np.clip(generate(None, jnp.asarray(classes), keys, None, True), 0, 1)
    with np.load(file) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], np.round(images * 255).astype(np.uint8))
    drawn = features(np.round(images * 255) / 255)
    expected = frechet_distance(gaussian(drawn), gaussian(features(originals())))
    assert found["fd_cells"] == pytest.approx(expected, rel=1e-4) and found["fd_cells"].num == 50


def test_samples_of_a_killed_evaluation_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(feature_sets, "SAVE_EVERY", 0.0)
    half_done = HalfDone(epath.Path(tmp_path / "half"), "step 3")
    (tmp_path / "half").mkdir()
    config = dataclasses.replace(FD, write_samples=str(tmp_path / "drawn.npz"))
    dict(fd(config).run(None))
    expected = np.load(tmp_path / "drawn.npz")["arr_0"]
    batches, put = [], PicturesWriter.put

    def killed(writer, start, images):
        put(writer, start, images)
        batches.append(start)
        if len(batches) == 3:
            raise Killed

    (tmp_path / "drawn.npz").unlink()
    monkeypatch.setattr(PicturesWriter, "put", killed)
    with pytest.raises(Killed):
        dict(fd(config, half_done=half_done).run(None))
    dict(fd(config, half_done=half_done).run(None))
    np.testing.assert_array_equal(np.load(tmp_path / "drawn.npz")["arr_0"], expected)
    # The third batch was written and not counted; of the others each was drawn once.
    assert batches == [0, 8, 16, 16, 24, 32, 40]


def test_a_reference_s_pictures_give_precision_and_recall(tmp_path):
    y = features(originals()).astype(np.float64)
    stats = {"mu": y.mean(0), "sigma": np.cov(y, rowvar=False)}
    images = np.round(originals() * 255).astype(np.uint8)
    np.savez(tmp_path / "adm.npz", images, **stats)
    found = dict(fd(dataclasses.replace(FD, reference=str(tmp_path / "adm.npz"))).run(None))
    own = dict(fd().run(None))
    for name in ("fd_cells", "precision_cells", "recall_cells"):
        assert found[name] == pytest.approx(own[name], rel=1e-4)


def test_a_protocol_is_kept_or_refused(monkeypatch):
    asked = dataclasses.replace(PROTOCOLS["adm_imagenet_256"], num=10, size=(SIDE, SIDE))
    asked = dataclasses.replace(asked, network="cells", per_class=2, guidance=2.0)
    monkeypatch.setitem(PROTOCOLS, "small", asked)
    plain = DrawnDistanceConfig("cells", "here", sampling=FD.sampling, protocol="small")
    assert plain.num_examples == 10 and plain.half_distances
    evaluator = fd(plain)
    evaluator.check()
    said = evaluator.protocol()["named"]
    assert (said["name"], said["num"], said["per_class"]) == ("small", 10, 2)
    assert evaluator.protocol()["statistics"]["manifold"]["distances"] == "float16"

    def refused(line, **fields):
        monkeypatch.setitem(PROTOCOLS, "small", dataclasses.replace(asked, **fields))
        with pytest.raises(UserError, match=line):
            fd(dataclasses.replace(plain, num_examples=10_000, num_drawn=0)).check()

    refused("2.0 and protocol=small is of 1.2; set it, or leave protocol out", guidance=1.2)
    refused("of 3 pictures of each of 3 classes; .* from a class, 10 pictures of 5", per_class=3)
    refused(r"pictures of \(64, 64\) and these are of \(32, 32\)", size=(64, 64))
    refused("is of 200 pictures and there are 100; give as many", num=200)
    with pytest.raises(UserError, match="num_examples is 44 and protocol=small is of 200; leave"):
        dataclasses.replace(FD, protocol="small")


def test_features_of_places_have_a_distance_of_their_own(monkeypatch):
    known = dataclasses.replace(NETWORKS["inception"], spatial=2, classes=None)
    monkeypatch.setitem(NETWORKS, "cells", known)
    found = dict(rfd().run(None))
    made, true = features(np.round(darker(originals()) * 255) / 255), features(originals())
    for name, part in (("fid", slice(0, 4)), ("sfid", slice(4, 6))):
        expected = frechet_distance(gaussian(made[:, part]), gaussian(true[:, part]))
        assert found[name] == pytest.approx(expected, 1e-4)
    assert [*found] == ["fid", "sfid", "kid", "precision", "recall"]
