"""The statistics against scikit-learn and scipy, with absent classes, single examples and ties."""

import math
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from fer_jax import metrics, statistics
from fer_jax.heads import ClassificationHead
from fer_jax.scores import classification_scores


def draws(seed, n=400, rate=0.7):
    return np.random.default_rng(seed).random(n) < rate


def test_the_interval_of_an_accuracy_is_wilsons():
    correct, z = draws(0), stats.norm.ppf(0.975)
    n, share = len(correct), correct.mean()
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    expected = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert statistics.accuracy_interval(correct) == pytest.approx(expected)
    # Of many examples it is the bootstrap's.
    drawn = stats.bootstrap((correct,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert statistics.accuracy_interval(correct) == pytest.approx((drawn.low, drawn.high), abs=0.006)


@pytest.mark.parametrize(("n", "accuracy"), [(500, 0.6), (21, 0.95), (40, 0.9)])
def test_the_interval_of_an_accuracy_covers_the_truth_at_its_level(n, accuracy):
    generator = np.random.default_rng(0)
    intervals = [statistics.accuracy_interval(generator.random(n) < accuracy) for _ in range(1000)]
    assert 0.92 < np.mean([low <= accuracy <= high for low, high in intervals]) < 0.99


def test_the_interval_over_groups_is_scipys_over_their_means():
    groups = np.repeat(np.arange(60), 5)
    correct = np.random.default_rng(0).random(300) < np.repeat(np.random.default_rng(1).random(60), 5)
    low, high = statistics.cluster_interval(correct, groups.astype(str))
    means = correct.reshape(60, 5).mean(1)
    expected = stats.bootstrap((means,), np.mean, n_resamples=5000, method="percentile", rng=1).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.01)
    assert high == pytest.approx(expected.high, abs=0.01)
    single = statistics.accuracy_interval(correct)
    assert high - low > 1.2 * (single[1] - single[0])  # people differ, so that pictures of one say less
    alone = statistics.cluster_interval(correct, np.arange(300))
    np.testing.assert_allclose(alone, single, atol=0.015)
    assert np.isnan(statistics.cluster_interval(correct, np.zeros(300))).all()  # one says nothing of others
    right = np.ones(40, bool)
    assert statistics.cluster_interval(right, np.repeat([0, 1], 20)) == statistics.accuracy_interval(right)


@pytest.mark.parametrize("people", [2, 3, 5, 10, 40])
def test_the_interval_over_few_people_covers_the_truth_at_its_level(people):
    generator, groups = np.random.default_rng(0), np.repeat(np.arange(people), 20)
    covered = []
    for _ in range(1000):
        chances = np.clip(generator.normal(0.7, 0.15, people), 0, 1)
        low, high = statistics.cluster_interval(generator.random(20 * people) < chances[groups], groups)
        covered.append(low <= 0.7 <= high)
    assert 0.92 < np.mean(covered) < 0.99


def test_the_levels_of_intensities_are_their_values_or_equal_parts():
    generator = np.random.default_rng(0)
    target = generator.choice([0, 0.2, 0.4, 1], 200)
    predicted = generator.random(200)
    levels = statistics.intensity_levels(predicted, target)
    assert [level["target"] for level in levels] == pytest.approx([0, 0.2, 0.4, 1])
    for level in levels:
        chosen = predicted[np.isclose(target, level["target"])]
        assert level["count"] == len(chosen)
        assert level["q25"] == pytest.approx(np.percentile(chosen, 25))
        assert level["q50"] == pytest.approx(np.median(chosen))
    many = statistics.intensity_levels(predicted, np.linspace(0, 1, 200))
    assert len(many) == statistics.MOST_LEVELS
    assert sum(level["count"] for level in many) == 200
    assert statistics.intensity_levels(predicted, np.full(200, 0.3))[0]["count"] == 200


@pytest.mark.parametrize("present", [range(5), [0, 1, 3], [2]])
@pytest.mark.parametrize("guessed", [range(5), [0, 4], [2]])
def test_the_scores_are_scikit_learns(present, guessed):
    generator = np.random.default_rng(0)
    true, predicted = generator.choice(present, 200), generator.choice(guessed, 200)
    scores = classification_scores(sk.confusion_matrix(true, predicted, labels=range(5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are absent
        assert scores["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
        expected = sk.precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=np.nan)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    assert scores["macro_f1"] == pytest.approx(sk.f1_score(true, predicted, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(sk.f1_score(true, predicted, average="weighted"))
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        np.testing.assert_allclose(scores[name], values, err_msg=name)


def test_an_absent_class_is_undefined_and_counts_in_no_mean():
    scores = classification_scores(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    assert np.isnan([scores["recall"][2], scores["precision"][2], scores["f1"][2]]).all()
    assert scores["balanced_accuracy"] == pytest.approx((0.75 + 1) / 2)
    assert scores["support"].tolist() == [4, 4, 0]
    nothing = classification_scores(np.zeros((3, 3), int))
    assert np.isnan([nothing[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")]).all()


def test_the_calibration_is_that_of_the_jitted_metrics():
    generator = np.random.default_rng(3)
    logits = (3 * generator.normal(size=(500, 7))).astype(np.float32)
    labels = generator.integers(7, size=500).astype(np.int32)
    head = ClassificationHead(("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"))
    batch = {"mask": np.ones(500, bool), "label": labels, "intensity": np.zeros((500, 6), np.float32)}
    sums = metrics.batch_sums(head, jnp.asarray(logits), batch, jnp.zeros(500))
    summary = metrics.summarize(sums, head.emotions, has_intensity=False)
    probabilities = np.asarray(head.class_probabilities(jnp.asarray(logits)))
    found = statistics.calibration(probabilities.max(1), probabilities.argmax(1) == labels)
    assert found["ece"] == pytest.approx(summary["ece"], abs=1e-6)
    assert found["count"].tolist() == sums["bin_count"].tolist()
    assert np.isnan(found["accuracy"][found["count"] == 0]).all()
    scores = classification_scores(np.asarray(sums["confusion"]))
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert scores[name] == pytest.approx(summary[name])


def test_confidence_one_falls_into_the_last_bin():
    found = statistics.calibration(np.array([1.0, 0.0]), np.array([True, False]), bins=4)
    assert found["count"].tolist() == [1, 0, 0, 1]
    assert found["ece"] == 0


def test_the_intensity_scores_are_scikit_learns_and_scipys():
    generator = np.random.default_rng(0)
    target = generator.random((50, 4))
    predicted = np.clip(target + 0.2 * generator.normal(size=target.shape), 0, 1)
    predicted[:, 2] = 0.3
    target[:, 3] = 0.1  # its mean is not 0.1 in floating point
    scores = statistics.intensity_scores(predicted, target)
    np.testing.assert_allclose(scores["rmse"] ** 2, sk.mean_squared_error(target, predicted, multioutput="raw_values"))
    np.testing.assert_allclose(scores["mae"], sk.mean_absolute_error(target, predicted, multioutput="raw_values"))
    for i in range(2):
        assert scores["pearson"][i] == pytest.approx(stats.pearsonr(target[:, i], predicted[:, i]).statistic)
    assert np.isnan(scores["pearson"][2:]).all()


@pytest.mark.parametrize(("n", "rates"), [(30, (0.5, 0.7)), (400, (0.7, 0.6)), (9000, (0.5, 0.52))])
def test_mcnemars_test_is_the_exact_binomial_one(n, rates):
    a, b = draws(1, n, rates[0]), draws(2, n, rates[1])
    found = statistics.mcnemar(a, b)
    differing = found["only_a"] + found["only_b"]
    assert differing == (a != b).sum()
    rarer = min(found["only_a"], found["only_b"])
    tail = sum(math.comb(differing, right) for right in range(rarer + 1))
    assert found["p"] == pytest.approx(min(1, 2 * tail / 2**differing))
    assert statistics.mcnemar(b, a)["p"] == found["p"]


def test_models_that_never_differ_or_differ_evenly_have_p_one():
    same = np.array([True, False, True])
    assert statistics.mcnemar(same, same) == {"only_a": 0, "only_b": 0, "p": 1.0}
    assert statistics.mcnemar(np.array([True, False]), np.array([False, True]))["p"] == 1.0
    assert statistics.paired_bootstrap(same, same) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_the_paired_bootstrap_is_scipys():
    a = draws(1)
    b = np.where(draws(2, rate=0.8), a, draws(3, rate=0.4))

    def difference(x, y, axis):
        return x.mean(axis) - y.mean(axis)

    found = statistics.paired_bootstrap(a, b)
    expected = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        difference,
        paired=True,
        vectorized=True,
        n_resamples=5000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert found["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["low"] == pytest.approx(expected.low, abs=0.005)
    assert found["high"] == pytest.approx(expected.high, abs=0.005)
    assert found["p"] < 0.01  # the interval is far from 0
    backwards = statistics.paired_bootstrap(b, a)
    assert backwards["difference"] == -found["difference"]
    assert backwards["high"] == pytest.approx(-found["low"], abs=0.01)


def test_one_differing_example_is_no_evidence():
    a, b = np.ones(10, bool), np.ones(10, bool)
    b[0] = False
    assert statistics.mcnemar(a, b)["p"] == 1.0
    assert statistics.paired_bootstrap(a, b)["p"] > 0.3


def test_without_examples_or_with_others_there_is_no_answer():
    none, one = np.zeros(0, bool), np.ones(1, bool)
    for call in (
        lambda: statistics.accuracy_interval(none),
        lambda: statistics.calibration(none, none),
        lambda: statistics.cluster_interval(none, none),
        lambda: statistics.intensity_scores(np.zeros((0, 2)), np.zeros((0, 2))),
        lambda: statistics.mcnemar(none, none),
    ):
        with pytest.raises(ValueError, match="without examples"):
            call()
    with pytest.raises(ValueError, match="the same examples, not on 1 and 2"):
        statistics.paired_bootstrap(one, np.ones(2, bool))


def test_the_p_of_the_bootstrap_is_two_sided():
    place = np.arange(400)
    a, b = place >= 45, (place < 45) | (place >= 105)  # 60 that a alone has right, 45 that b has
    expected = 2 * stats.norm.sf(15 / np.sqrt(105 - 15**2 / 400))
    assert statistics.paired_bootstrap(a, b)["p"] == pytest.approx(expected, abs=0.04)
