"""The mixture estimator: scikit-learn's contract, recovery of what was drawn, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_estimator

from gpu import VonMisesFisher, VonMisesFisherMixture

TRUE_CONCENTRATIONS = np.array([20.0, 60.0, 150.0])


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """3000 features in 16 dimensions and the components they come from."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(3, 16))
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labels = rng.integers(0, 3, 3000)
    return VonMisesFisher(means[labels], TRUE_CONCENTRATIONS[labels]).sample(rng=1), labels


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:Estimator's parameters changed")
@pytest.mark.parametrize("algorithm", ["soft", "hard"])
def test_scikit_learns_contract_holds(algorithm):
    results = check_estimator(VonMisesFisherMixture(algorithm=algorithm), on_fail=None, on_skip=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    assert sum(result["status"] == "passed" for result in results) > 30


@pytest.mark.parametrize("algorithm", ["soft", "hard"])
def test_components_are_recovered(drawn, algorithm):
    x, labels = drawn
    mixture = VonMisesFisherMixture(3, algorithm=algorithm, n_init=2, random_state=0).fit(x)
    assert mixture.converged_
    assert adjusted_rand_score(labels, mixture.labels_) > 0.99
    np.testing.assert_allclose(np.sort(mixture.concentrations_), TRUE_CONCENTRATIONS, rtol=0.05)
    np.testing.assert_allclose(mixture.weights_.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(np.linalg.norm(mixture.means_, axis=1), 1, rtol=1e-14)


def test_one_component_is_the_maximum_likelihood_fit(drawn):
    x, _ = drawn
    mixture, single = VonMisesFisherMixture(1, random_state=0).fit(x), VonMisesFisher.fit(x)
    assert mixture.concentrations_[0] == pytest.approx(single.concentration, rel=1e-12)
    np.testing.assert_allclose(mixture.score_samples(x), single.log_prob(x), rtol=1e-10, atol=1e-10)
    assert mixture.bic(x) == pytest.approx(-2 * single.log_prob(x).sum() + 16 * math.log(3000), rel=1e-12)


def test_likelihood_never_falls_from_step_to_step(drawn):
    x, _ = drawn
    bounds = []
    for steps in range(1, 8):
        with pytest.warns(ConvergenceWarning) if steps > 1 else _nothing():
            mixture = VonMisesFisherMixture(5, max_iter=steps, tol=0, random_state=3).fit(x[:500])
        bounds.append(mixture.score(x[:500]))
    assert (np.diff(bounds) > -1e-12).all()
    assert bounds[-1] > bounds[0]


def test_a_shared_concentration_is_one_number(drawn):
    x, _ = drawn
    mixture = VonMisesFisherMixture(3, shared_concentration=True, random_state=0).fit(x)
    assert np.ptp(mixture.concentrations_) == 0
    own = VonMisesFisherMixture(3, random_state=0).fit(x)
    assert own.score(x) > mixture.score(x)
    assert own._n_parameters() == mixture._n_parameters() + 2


def test_criteria_choose_the_true_number(drawn):
    x, _ = drawn
    fits = {k: VonMisesFisherMixture(k, n_init=2, max_iter=1000, random_state=0).fit(x) for k in (1, 2, 3, 4)}
    assert min(fits, key=lambda k: fits[k].bic(x)) == 3
    assert min(fits, key=lambda k: fits[k].icl(x)) == 3
    assert fits[3].icl(x) >= fits[3].bic(x)


def test_posteriors_are_densities_by_bayes(drawn):
    x, _ = drawn
    mixture = VonMisesFisherMixture(3, random_state=0).fit(x)
    parameters = zip(mixture.means_, mixture.concentrations_, np.log(mixture.weights_), strict=True)
    joint = np.stack([VonMisesFisher(mean, kappa).log_prob(x) + log_weight for mean, kappa, log_weight in parameters], 1)
    evidence = np.logaddexp.reduce(joint, 1)
    np.testing.assert_allclose(mixture.score_samples(x), evidence, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(mixture.predict_proba(x), np.exp(joint - evidence[:, None]), atol=1e-9)
    np.testing.assert_array_equal(mixture.predict(x), joint.argmax(1))


def test_only_directions_count(drawn):
    x, _ = drawn
    lengths = 10 ** np.random.default_rng(1).uniform(-200, 200, (3000, 1))
    one, other = (VonMisesFisherMixture(3, random_state=0).fit(features) for features in (x, x * lengths))
    np.testing.assert_allclose(one.concentrations_, other.concentrations_, rtol=1e-10)


def test_samples_come_from_the_components(drawn):
    x, _ = drawn
    mixture = VonMisesFisherMixture(3, random_state=0).fit(x)
    samples, components = mixture.sample(4000)
    assert samples.shape == (4000, 16)
    np.testing.assert_allclose(np.bincount(components) / 4000, mixture.weights_, atol=0.04)
    assert (mixture.predict(samples) == components).mean() > 0.99
    assert mixture.score(samples) == pytest.approx(mixture.score(x), abs=0.2)


def test_a_component_on_one_direction_is_bounded():
    x = np.concatenate([np.repeat(np.eye(4)[:1], 20, 0), VonMisesFisher(np.eye(4)[2], 5.0).sample(50, rng=0)])
    mixture = VonMisesFisherMixture(2, random_state=0, n_init=3, max_concentration=1e6).fit(x)
    assert mixture.concentrations_.max() == 1e6
    assert math.isfinite(mixture.lower_bound_)


def test_torch_features_give_torch_results(drawn):
    x, _ = drawn
    mine, theirs = (
        VonMisesFisherMixture(3, random_state=0).fit(torch.tensor(x)),
        VonMisesFisherMixture(3, random_state=0).fit(x),
    )
    assert isinstance(mine.labels_, torch.Tensor)
    np.testing.assert_allclose(mine.concentrations_.numpy(), theirs.concentrations_, rtol=1e-9)
    np.testing.assert_array_equal(mine.predict(torch.tensor(x)).numpy(), theirs.predict(x))
    assert mine.predict_proba(torch.tensor(x)).shape == (3000, 3)
    assert mine.bic(torch.tensor(x)) == pytest.approx(theirs.bic(x), rel=1e-9)
    samples, components = mine.sample(10)
    assert isinstance(samples, torch.Tensor)
    assert components.shape == (10,)
    with pytest.raises(ValueError, match="X has 3 features, but the mixture was fitted to 16"):
        mine.predict(torch.eye(3))
    with pytest.raises(ValueError, match="X must be finite"):
        mine.fit(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, n_features >= 2\); got \(4,\)"):
        mine.fit(torch.ones(4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1; got 0"),
        ({"n_init": 1.5}, "n_init must be an integer of at least 1; got 1.5"),
        ({"max_iter": True}, "max_iter must be an integer"),
        ({"algorithm": "fast"}, "algorithm must be one of soft, hard; got 'fast'"),
        ({"tol": -1.0}, "tol must be at least 0"),
        ({"max_concentration": math.inf}, "max_concentration must be positive and finite"),
        ({"n_components": 9}, "n_samples=5 should be at least n_components=9"),
    ],
)
def test_wrong_settings_are_refused_by_name(settings, words):
    with pytest.raises(ValueError, match=words):
        VonMisesFisherMixture(**settings).fit(np.eye(5))


def test_sampling_nothing_is_refused(drawn):
    with pytest.raises(ValueError, match="n_samples must be at least 1; got 0"):
        VonMisesFisherMixture(2, random_state=0).fit(drawn[0]).sample(0)


def test_without_scikit_learn_one_line_says_so():
    code = "import sys; sys.modules['sklearn'] = None; import gpu; gpu.VonMisesFisherMixture"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "VonMisesFisherMixture needs scikit-learn. Install it" in done.stderr.splitlines()[-1]


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_the_best_of_several_starts_is_kept():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 5))
    random = np.random.RandomState(0)
    single = [VonMisesFisherMixture(6, max_iter=1, random_state=random).fit(x).lower_bound_ for _ in range(8)]
    together = VonMisesFisherMixture(6, max_iter=1, n_init=8, random_state=0).fit(x).lower_bound_
    assert together == max(single) > min(single)


def test_parameters_are_counted():
    """p - 1 for each direction, concentrations, and weights that add up to one."""
    x = np.random.default_rng(0).normal(size=(60, 4))
    for shared, count in ((False, 3 * 3 + 3 + 2), (True, 3 * 3 + 1 + 2)):
        mixture = VonMisesFisherMixture(3, shared_concentration=shared, max_iter=1, random_state=0).fit(x)
        assert mixture.bic(x) == pytest.approx(count * math.log(60) - 2 * 60 * mixture.score(x), rel=1e-12)


def test_an_empty_component_is_a_direction_still():
    x = np.repeat(np.eye(4)[:2], 10, axis=0)
    mixture = VonMisesFisherMixture(3, max_iter=1, random_state=0).fit(x)
    assert mixture.weights_.min() == 0
    np.testing.assert_allclose(np.linalg.norm(mixture.means_, axis=1), 1, rtol=1e-14)
    assert mixture.concentrations_[mixture.weights_.argmin()] == 0


def test_features_without_a_direction_count_for_nothing():
    """In the fit, its bound, the score and the criteria."""
    x = VonMisesFisher(np.eye(4)[0], 20.0).sample(500, rng=0)
    holed = np.concatenate([x, np.zeros((500, 4))])
    with_zeros, without = (VonMisesFisherMixture(2, random_state=0).fit(features) for features in (holed, x))
    np.testing.assert_allclose(with_zeros.concentrations_, without.concentrations_, rtol=1e-12)
    assert with_zeros.lower_bound_ == pytest.approx(without.lower_bound_, rel=1e-12)
    for criterion in ("score", "bic", "icl"):
        assert getattr(without, criterion)(holed) == pytest.approx(getattr(without, criterion)(x), rel=1e-12), criterion
        assert math.isnan(getattr(without, criterion)(np.zeros((3, 4))))
    assert with_zeros.labels_.shape == (1000,)
    with pytest.raises(ValueError, match="n_samples=1 should be at least n_components=2, not counting zeros"):
        VonMisesFisherMixture(2).fit(np.eye(3)[:1].repeat(3, 0) * [[1], [0], [0]])
