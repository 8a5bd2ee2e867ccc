"""Distances between sets of features against other ways to compute them, in float64."""

import itertools

import numpy as np
import pytest
from scipy import linalg, stats

from babeldraw.errors import UserError
from babeldraw.evaluation import distances
from babeldraw.evaluation.arrays import read_arrays, write_arrays
from babeldraw.evaluation.distances import Gaussian, frechet_distance
from babeldraw.evaluation.moments import Moments

RNG = np.random.default_rng(0)


def features(num, size, shift=0.0, seed=0):
    """Correlated, skewed and at least 0, as those behind a ReLU are."""
    rng = np.random.default_rng([seed, num, size])
    mixing = np.random.default_rng(size).normal(0, 1, (size, size)) / np.sqrt(size)
    return np.maximum(rng.gamma(1.0, 1.0, (num, size)) @ mixing + shift, 0).astype(np.float32)


FIRST, SECOND = features(300, 24), features(250, 24, shift=0.2, seed=1)


def gaussian(x_ND):
    return Gaussian.of(Moments.of(x_ND))


def reference_frechet(first, second):
    """By SciPy's square root of the unsymmetric product."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(s1 @ s2)
    apart = first.mean(0) - second.mean(0)
    return apart @ apart + np.trace(s1 + s2 - 2 * root.real)


# ------------------------------------------------------------------ moments


@pytest.mark.parametrize("sizes", [(300,), (1, 299), (7, 100, 193), (150, 0, 150)])
def test_moments_of_parts_are_those_of_the_whole(sizes, tmp_path):
    # Far from 0, where E[x^2] - E[x]^2 would have lost seven of its digits.
    x_ND, found = FIRST.astype(np.float64) + 3000, Moments.none(24)
    ends = np.cumsum(sizes)
    for index, (start, stop) in enumerate(zip(ends - sizes, ends, strict=True)):
        found = found + Moments.of(x_ND[start:stop])
        # Stopped and gone on.
        file = tmp_path / f"{index}.npz"
        write_arrays(file, found.arrays())
        found = Moments.of_arrays(read_arrays(file, ("num", "mean", "scatter")))
    assert found.num == 300
    np.testing.assert_allclose(found.mean_D, x_ND.mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance_DD, np.cov(x_ND, rowvar=False), rtol=1e-9)


def test_a_row_may_count_several_times():
    times_N = RNG.integers(0, 4, len(FIRST))
    found, repeated = Moments.of(FIRST, times_N), np.repeat(FIRST, times_N, axis=0)
    assert found.num == len(repeated)
    expected = np.cov(repeated.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found.covariance_DD, expected, rtol=1e-10)


def test_features_that_are_not_finite_are_refused():
    spoilt = FIRST.copy()
    spoilt[3, 0], spoilt[7, 1] = np.nan, np.inf
    with pytest.raises(UserError, match="features of 2 of 300 pictures are not finite"):
        Moments.of(spoilt)


# ------------------------------------------------------------------ Fréchet distance


def test_frechet_distance_is_that_of_the_unsymmetric_root():
    found = frechet_distance(gaussian(FIRST), gaussian(SECOND))
    assert found == pytest.approx(reference_frechet(FIRST, SECOND), rel=1e-9)
    assert found == pytest.approx(frechet_distance(gaussian(SECOND), gaussian(FIRST)), rel=1e-9)
    assert frechet_distance(gaussian(FIRST), gaussian(FIRST)) < 1e-9


def test_frechet_distance_of_covariances_that_commute():
    basis = stats.ortho_group.rvs(24, random_state=0)
    first, second = (RNG.uniform(0, 4, 24) for _ in range(2))
    first[:5] = 0  # Singular: half of the published square roots give NaN here.
    made = [Gaussian(np.zeros(24), (basis * x) @ basis.T) for x in (first, second)]
    expected = np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    assert frechet_distance(*made) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_have_their_exact_distance():
    # More features than pictures. With singular values of the pictures themselves as reference:
    # tr (S1 S2)^(1/2) is the nuclear norm of the product of the centred pictures.
    first, second = (features(n, 64, s, n).astype(np.float64) for n, s in ((40, 0), (50, 0.3)))
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (first, second)]
    shared = linalg.svdvals(centred[0] @ centred[1].T).sum()
    apart = first.mean(0) - second.mean(0)
    expected = apart @ apart + sum(np.square(x).sum() for x in centred) - 2 * shared
    made = [Gaussian(x.mean(0), np.cov(x, rowvar=False)) for x in (first, second)]
    assert frechet_distance(*made) == pytest.approx(expected, rel=1e-9)


def test_fewer_pictures_than_features_are_refused_with_both_numbers():
    Gaussian.of(Moments.of(FIRST[:24]))
    with pytest.raises(UserError, match="over 24 features needs at least.*drawn.*there are 23"):
        Gaussian.of(Moments.of(FIRST[:23]), "drawn pictures")
    with pytest.raises(UserError, match="one set has 24 features and the other 8"):
        frechet_distance(gaussian(FIRST), gaussian(FIRST[:, :8]))


# ------------------------------------------------------------------ kernel distance


def reference_mmd(x, y):
    """Pair by pair."""
    kernel = [
        [(np.dot(a, b) / len(a) + 1) ** 3 for b in np.concatenate([x, y])]
        for a in np.concatenate([x, y])
    ]
    n, m = len(x), len(y)
    own = np.mean([kernel[i][j] for i, j in itertools.permutations(range(n), 2)])
    other = np.mean([kernel[i][j] for i, j in itertools.permutations(range(n, n + m), 2)])
    return own + other - 2 * np.mean([kernel[i][j] for i in range(n) for j in range(n, n + m)])


def test_the_squared_mmd_is_that_of_all_pairs():
    x, y = FIRST[:12].astype(np.float64), SECOND[:9].astype(np.float64)
    assert distances.squared_mmd(x, y) == pytest.approx(reference_mmd(x, y), rel=1e-9)


def test_subsets_and_blocks_estimate_the_same_distance():
    first, second = features(4000, 16), features(3000, 16, shift=0.3, seed=1)
    whole = distances.squared_mmd(first, second)
    mean, deviation = distances.kernel_distance(first, second, subset=500, subsets=40)
    assert mean == pytest.approx(whole, rel=0.1) and 0 < deviation < whole
    mean, error = distances.kernel_distance_of_blocks(first, second, block=500)
    assert abs(mean - whole) < 4 * error and error < 0.2 * whole
    # A subset of all is all, however often it would be drawn.
    alone = distances.kernel_distance(first[:300], second[:300], subset=1000)
    assert alone == (pytest.approx(distances.squared_mmd(first[:300], second[:300])), 0.0)


def test_the_kernel_distance_has_no_bias():
    # Of two sets of one law the mean is 0, where a biased estimate is above.
    found = [distances.squared_mmd(*features(80, 8, seed=i).reshape(2, 40, 8)) for i in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    with pytest.raises(UserError, match="300 and 250 pictures make no two blocks of 200"):
        distances.kernel_distance_of_blocks(FIRST, SECOND, block=200)
    with pytest.raises(UserError, match="needs 2 pictures a side; there are 1 and 250"):
        distances.squared_mmd(FIRST[:1], SECOND)


# ------------------------------------------------------------------ precision and recall


@pytest.mark.parametrize("rows", [16, 1024])
def test_the_manifold_is_made_of_balls_about_each_picture(monkeypatch, rows):
    monkeypatch.setattr(distances, "ROWS", rows)
    x, true = SECOND[:60].astype(np.float64), FIRST[:50].astype(np.float64)
    radii = [np.sort(np.linalg.norm(true - center, axis=1))[3] for center in true]
    expected = [any(np.linalg.norm(true - a, axis=1) <= radii) for a in x]
    found = distances.inside(x, true)
    np.testing.assert_array_equal(found, expected)
    assert 0.05 < found.mean() < 0.95


def test_precision_falls_outside_and_recall_where_modes_are_lost():
    true = np.concatenate([RNG.normal(c, 1, (200, 4)) for c in (0, 30)])
    one_mode = RNG.normal(0, 1, (200, 4))
    assert distances.inside(one_mode, true).mean() > 0.8
    assert 0.3 < distances.inside(true, one_mode).mean() < 0.5
    assert distances.inside(one_mode + 100, true).mean() == 0
    with pytest.raises(UserError, match="k=3 need more than 3 pictures a side; there are 3"):
        distances.inside(true, true[:3])


# ------------------------------------------------------------------ as ADM's evaluator has them


def test_the_inception_score_is_the_mean_over_splits_of_exp_of_the_mean_divergence():
    rng = np.random.default_rng(3)
    x_ND, classes_DV = rng.normal(0, 1, (130, 6)), rng.normal(0, 2, (6, 5))
    scores = []
    for part in (x_ND[:50], x_ND[50:100], x_ND[100:]):
        p_NV = np.exp(part @ classes_DV)
        p_NV /= p_NV.sum(1, keepdims=True)
        divergences = (p_NV * (np.log(p_NV) - np.log(p_NV.mean(0)))).sum(1)
        scores.append(np.exp(divergences.mean()))
    found = distances.inception_score(x_ND.astype(np.float32), classes_DV, split=50)
    assert found == pytest.approx(np.mean(scores), rel=1e-6) and found > 1.5
    # One class each, and classes that are never seen, whose softmax is 0 in any float.
    sure_ND = 1000 * np.eye(4)[np.arange(40) % 4]
    assert distances.inception_score(sure_ND, np.eye(4, 9) * 10) == pytest.approx(4, rel=1e-9)


def adm_precision(x_ND, set_MD, k=3):
    """With every array float16 but sums, a distance at a time."""
    half, single = np.float16, np.float32

    def squared(a, b):
        a, b = a.astype(half), b.astype(half)
        norms = [half(np.sum(np.square(v), dtype=single)) for v in (a, b)]
        product = half(np.dot(a.astype(single), b.astype(single)))
        return max(half(norms[0] - half(2) * product) + norms[1], half(0))

    def radius(m):
        others = sorted(squared(set_MD[m], other) for n, other in enumerate(set_MD) if n != m)
        return others[k - 1]

    radii = [radius(m) for m in range(len(set_MD))]
    return [any(squared(x, s) <= r for s, r in zip(set_MD, radii, strict=True)) for x in x_ND]


def test_distances_in_float16_are_those_of_adm():
    rng = np.random.default_rng(4)
    set_MD, x_ND = rng.normal(3, 1, (40, 24)), rng.normal(3, 1.1, (60, 24))
    set_MD, x_ND = set_MD.astype(np.float32), x_ND.astype(np.float32)
    found = distances.inside(x_ND, set_MD, half=True)
    assert found.tolist() == adm_precision(x_ND, set_MD) and 0 < found.mean() < 1
    # Where distances are as large as their rounding, the two ways differ.
    near_MD, near_ND = set_MD / 50 + 3, x_ND / 50 + 3
    half = distances.inside(near_ND, near_MD, half=True)
    assert half.tolist() == adm_precision(near_ND, near_MD)
    assert np.any(half != distances.inside(near_ND, near_MD))
    # Beyond 65,504 float16 has no numbers; none is lost.
    far = distances.inside(x_ND * 100, set_MD * 100, half=True)
    np.testing.assert_array_equal(far, distances.inside(x_ND, set_MD))
