"""Statistics of results: intervals, calibration, intensities, tests between two models.

What is undefined (the correlation of a constant) is NaN, never 0; no examples at all is a ValueError.
"""

import numpy as np
from scipy import stats

from fer_jax.scores import CALIBRATION_BINS, ratio

LEVEL = 0.95  # of every interval; 1 - LEVEL is where a difference counts as significant
MOST_LEVELS = 6  # of intensity in a box plot: that of most scales, 0 to 5
REPEATS = 2000  # of the bootstrap
_BOX = (5, 25, 50, 75, 95)  # per cent


def accuracy_interval(correct: np.ndarray) -> tuple[float, float]:
    """Wilson's interval of an accuracy (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1).

    With many examples it agrees with the percentile bootstrap's, which is too narrow with few: for 21 examples and a
    true accuracy of 95 %, the bootstrap's interval of 95 % covers the truth in 67 % of cases.

    Args:
      correct: bool [n], whether each example was answered rightly.

    Returns:
      (low, high), both in 0..1.

    Raises:
      ValueError: no examples.
    """
    correct = _answers(correct)
    low, high = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)


def mean_half_width(*cells: np.ndarray) -> float:
    """Half of Student's interval of a mean: of scores [n], or of the means of several cells with as many scores each.

    NaN where a cell has fewer than two.
    """
    if min(map(len, cells)) < 2:
        return float("nan")
    error = np.sqrt(sum(np.var(scores, ddof=1) / len(scores) for scores in cells)) / len(cells)
    return float(stats.t.ppf((1 + LEVEL) / 2, sum(len(scores) - 1 for scores in cells)) * error)


def cluster_interval(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The interval of an accuracy whose examples come in groups, such as the pictures of one person.

    Pictures of one person are alike, so that the interval over single examples is too narrow for people that are new.
    This is Student's interval of a ratio of sums over whole groups (Cochran 1977, section 6.3), and nowhere within that
    over examples: a few people who are all answered rightly say no more than as many pictures. (The bootstrap over few
    groups covers the truth too seldom: with three, in 82 % of cases instead of 95.)

    Args:
      correct: bool [n].
      groups: [n], the name of each example's group.

    Returns:
      (low, high), both in 0..1; NaN for a single group, which says nothing of others.

    Raises:
      ValueError: no examples.
    """
    correct = _answers(correct)
    _, member = np.unique(groups, return_inverse=True)
    size, right = np.bincount(member), np.bincount(member, correct)
    count = len(size)
    if count == 1:
        return float("nan"), float("nan")
    accuracy = right.sum() / size.sum()
    variance = count / (count - 1) * ((right - accuracy * size) ** 2).sum() / size.sum() ** 2
    half = stats.t.ppf((1 + LEVEL) / 2, count - 1) * variance**0.5
    low, high = accuracy_interval(correct)
    return float(max(0.0, min(low, accuracy - half))), float(min(1.0, max(high, accuracy + half)))


def calibration(
    confidence: np.ndarray, correct: np.ndarray, *, bins: int = CALIBRATION_BINS
) -> dict[str, float | np.ndarray]:
    """The reliability diagram and its expected calibration error (Guo et al. 2017, equations 1 to 3).

    Args:
      confidence: float [n], the probability of the predicted class; correct: bool [n].

    Returns:
      ece, the mean gap of the examples; of each of the `bins` equal bins of 0..1: count int64, accuracy and
      confidence float64, NaN in an empty bin.

    Raises:
      ValueError: no examples.
    """
    correct, confidence = _answers(correct), np.asarray(confidence)
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    count, right, summed = (np.bincount(place, weights, bins) for weights in (None, correct, confidence))
    return {
        "ece": float(np.abs(right - summed).sum() / len(correct)),
        "count": count,
        "accuracy": ratio(right, count),
        "confidence": ratio(summed, count),
    }


def intensity_scores(predicted: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """The errors of intensities float [n, E] in 0..1: rmse, mae and pearson, each float64 [E].

    Pearson's correlation is NaN where the prediction or the target is constant.

    Raises:
      ValueError: no examples.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if not len(target):
        raise ValueError("there are no scores without examples")
    error = predicted - target
    a, b = predicted - predicted.mean(0), target - target.mean(0)
    constant = (np.ptp(predicted, axis=0) == 0) | (np.ptp(target, axis=0) == 0)
    norms = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    return {
        "rmse": np.sqrt((error**2).mean(0)),
        "mae": np.abs(error).mean(0),
        "pearson": ratio((a * b).sum(0), np.where(constant, 0, norms)),
    }


def intensity_levels(predicted: np.ndarray, target: np.ndarray) -> list[dict[str, float]]:
    """How predicted intensities are distributed at each level of the true ones, for a box plot.

    Args:
      predicted, target: float [n] in 0..1. Targets of at most MOST_LEVELS different values are levels of their own,
        others fall into that many equal parts of 0..1.

    Returns:
      For each level with examples, from low to high: target, the mean of the true intensities; count; q05, q25, q50,
      q75 and q95, quantiles of the predicted ones.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    values, level = np.unique(target, return_inverse=True)
    if len(values) > MOST_LEVELS:
        level = np.clip((target * MOST_LEVELS).astype(int), 0, MOST_LEVELS - 1)
    boxes = []
    for each in np.unique(level):
        chosen = level == each
        quantiles = np.quantile(predicted[chosen], [share / 100 for share in _BOX])
        boxes.append(
            {"target": float(target[chosen].mean()), "count": int(chosen.sum())}
            | {f"q{share:02}": float(value) for share, value in zip(_BOX, quantiles, strict=True)}
        )
    return boxes


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, int | float]:
    """McNemar's exact test of two models on the same examples (McNemar 1947; Dietterich 1998, section 3.1).

    Args:
      correct_a, correct_b: bool [n], example by example.

    Returns:
      only_a, only_b: the examples that one alone has right; p: the two-sided binomial p-value, 1 when they never
      differ.

    Raises:
      ValueError: no examples, or not the same ones.
    """
    a, b = _pair(correct_a, correct_b)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    total = only_a + only_b
    p = float(stats.binomtest(min(only_a, only_b), total).pvalue) if total else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def paired_bootstrap(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, float]:
    """The bootstrap of the difference in accuracy of two models on the same examples.

    Examples are drawn with both answers (Efron and Tibshirani 1993, chapters 13 and 15).

    Args:
      correct_a, correct_b: bool [n], example by example.

    Returns:
      difference: accuracy of a minus that of b; low, high: its percentile interval; p: two-sided, twice the
      share of resamples on the rarer side of 0, counting one more (Davison and Hinkley 1997, equation 4.11).

    Raises:
      ValueError: no examples, or not the same ones.
    """
    a, b = _pair(correct_a, correct_b)
    shares = np.array([(a & ~b).mean(), (b & ~a).mean(), (a == b).mean()])
    # An example counts +1, -1 or 0, so a resample is a multinomial draw of how often each occurs.
    drawn = np.random.default_rng(0).multinomial(len(a), shares / shares.sum(), REPEATS)
    differences = (drawn[:, 0] - drawn[:, 1]) / len(a)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return {
        "difference": float(shares[0] - shares[1]),
        "low": float(low),
        "high": float(high),
        "p": float(min(1.0, 2 * (rarer + 1) / (REPEATS + 1))),
    }


def _answers(correct: np.ndarray) -> np.ndarray:
    correct = np.asarray(correct, bool)
    if not len(correct):
        raise ValueError("there are no scores without examples")
    return correct


def _pair(correct_a: np.ndarray, correct_b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _answers(correct_a), _answers(correct_b)
    if a.shape != b.shape:
        raise ValueError(f"two models are compared on the same examples, not on {len(a)} and {len(b)}")
    return a, b
