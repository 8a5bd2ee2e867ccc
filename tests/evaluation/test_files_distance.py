"""Pictures in files against a reference, by a network whose features can be computed by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.evaluation import distances, feature_sets, files_distance
from babeldraw.evaluation.distances import Gaussian
from babeldraw.evaluation.files_distance import FilesDistanceConfig, compare_files
from babeldraw.evaluation.moments import Moments
from babeldraw.judges.features import NETWORKS, FeatureNetwork

RNG = np.random.default_rng(0)
D, S, V = 6, 4, 5
WEIGHT = RNG.normal(0, 1, (48, D + S)).astype(np.float32)
CLASSES = RNG.normal(0, 0.02, (D, V)).astype(np.float32)
SAMPLES = RNG.integers(0, 256, (44, 4, 4, 3), np.uint8)
TRUE = RNG.integers(30, 200, (37, 4, 4, 3), np.uint8)


def mixed(weight, images):
    return images.astype(jnp.float32).reshape(images.shape[0], -1) @ weight


def features(images):
    """float64 [N, D + S]."""
    return images.reshape(len(images), -1).astype(np.float64) @ WEIGHT


KNOWN = FeatureNetwork(
    "pixels, mixed",
    D,
    1,
    NETWORKS["inception"].preprocessing,
    lambda file: jax.tree_util.Partial(mixed, WEIGHT),
    "mixed",
    spatial=S,
    classes=lambda features: CLASSES,
    is_fid=True,
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(NETWORKS, "inception", KNOWN)


def config(tmp_path, **fields):
    given = {"samples": tmp_path / "samples.npz", "reference": tmp_path / "true.npz"}
    given |= {"file": "weights", "batch_size": 8, "resamples": 3}
    given = {name: str(v) if "/" in str(v) else v for name, v in (given | fields).items()}
    return FilesDistanceConfig(**given)


def gaussian(x_ND):
    return Gaussian.of(Moments.of(x_ND))


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "samples.npz", SAMPLES)
    np.savez(tmp_path / "true.npz", TRUE)
    return tmp_path


def test_figures_are_those_of_the_features(files):
    record = compare_files(config(files))
    found = {name: figure["value"] for name, figure in record["figures"].items()}
    x, y = features(SAMPLES), features(TRUE)
    expected = {
        "fid": distances.frechet_distance(gaussian(x[:, :D]), gaussian(y[:, :D])),
        "sfid": distances.frechet_distance(gaussian(x[:, D:]), gaussian(y[:, D:])),
        "inception_score": distances.inception_score(x[:, :D], CLASSES),
        "kid": distances.kernel_distance(x[:, :D], y[:, :D])[0],
        "precision": distances.inside(x[:, :D], y[:, :D]).mean(),
        "recall": distances.inside(y[:, :D], x[:, :D]).mean(),
    }
    assert found == pytest.approx(expected, rel=1e-4) and expected["inception_score"] > 1.1
    assert record["figures"]["fid"]["n"] == 44
    told = record["protocol"]
    assert told["samples"]["n"] == 44 and len(told["samples"]["sha256"]) == 64
    assert told["true"] == {"n": 37, "size": [4, 4]}
    assert told["statistics"]["inception_score"] == {"split": 5000, "bias": False}
    json.dumps(record)


def test_statistics_stand_for_pictures_and_may_have_some_beside(files):
    """As ADM's references: the statistics are of all, the pictures are some."""
    y = features(TRUE)
    stats = {"mu": y[:, :D].mean(0), "sigma": np.cov(y[:, :D], rowvar=False)}
    stats |= {"mu_s": y[:, D:].mean(0), "sigma_s": np.cov(y[:, D:], rowvar=False)}
    of_pictures = compare_files(config(files))["figures"]
    np.savez(files / "true.npz", **stats)
    alone = compare_files(config(files))
    assert [*alone["figures"]] == ["fid", "sfid", "inception_score"]
    for name, figure in alone["figures"].items():
        assert figure["value"] == pytest.approx(of_pictures[name]["value"], rel=1e-4)
    np.savez(files / "true.npz", TRUE[:20], **stats)
    both = compare_files(config(files))["figures"]
    assert both["fid"] == alone["figures"]["fid"]
    few = distances.inside(features(SAMPLES)[:, :D], y[:20, :D]).mean()
    assert both["precision"]["value"] == pytest.approx(few)


def test_one_line_for_each_mistake(files):
    np.savez(files / "few.npz", SAMPLES[:5])
    wrong = {
        r"files compares 5 pictures by inception, which has 6 features": {
            "samples": files / "few.npz"
        },
        r"files.reference: .*few.npz holds 5 pictures and inception has 6 features": {
            "reference": files / "few.npz"
        },
        "files.file is empty; name a file": {"file": ""},
        "files.split is 'train', which is of a run's data": {"split": "train"},
        "nothing.npz is not there": {"samples": files / "nothing.npz"},
        r"protocol=adm_imagenet_256 is of pictures of \(256, 256\) and these are of \(4, 4\)": {
            "protocol": "adm_imagenet_256"
        },
    }
    for line, fields in wrong.items():
        with pytest.raises(UserError, match=line):
            compare_files(config(files, **fields))
    with pytest.raises(UserError, match="files.protocol is 'adm'; the protocols are adm_imagenet_"):
        config(files, protocol="adm")
    with pytest.raises(UserError, match="files.network is 'vgg16' and protocol=adm_imagenet_256 i"):
        config(files, protocol="adm_imagenet_256", network="vgg16")


def test_a_protocol_of_so_many_pictures_takes_no_others(files, monkeypatch):
    own = config(files, protocol="parti_coco_30k")
    assert (own.network, own.num_examples) == ("inception_half_pixel", 30_000)
    monkeypatch.setitem(NETWORKS, "inception_half_pixel", KNOWN)
    monkeypatch.setattr(files_distance, "check_protocol", lambda config, size: None)
    with pytest.raises(UserError, match="parti_coco_30k is of 30000 pictures and there are 44"):
        compare_files(own)
    assert feature_sets.named("ln_coco")["true"] == 5_000


def test_the_command_prints_the_record(files, cli):
    words = [f"--samples={files}/samples.npz", f"--reference={files}/true.npz"]
    fields = "files.file=weights,files.batch_size=8,files.resamples=0"
    status, printed, _ = cli("evaluate", *words, f"--set={fields}")
    assert status == 0 and json.loads(printed)["figures"]["fid"]["n"] == 44
    for more, line in (
        (["--workdir=runs/a"], "--workdir does not go with --samples"),
        (["--set=fd.file=a"], "--set=fd does not go with --samples; set files.FIELD=VALUE"),
        (["--set=files.colour=3"], "files.colour is not a field"),
        (["--coordinator=here:1", "--hosts=2", "--host=0"], "--samples is done by one host, not 2"),
    ):
        status, _, said = cli("evaluate", *words, *more)
        assert status == 2 and line in said.splitlines()[-1]
