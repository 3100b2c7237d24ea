"""The scores of a confusion matrix, in numpy, as scikit-learn defines them over the classes that occur."""

import numpy as np
from ml_collections import ConfigDict

CALIBRATION_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


def classification_scores(confusion: np.ndarray) -> dict[str, float | np.ndarray]:
    """The scores of a confusion matrix; NaN where undefined, as all are without examples.

    Args:
      confusion: int [C, C], rows true, columns predicted.

    Returns:
      accuracy; balanced_accuracy, the mean recall of the classes present; macro_f1, the mean F1 of the classes
      present or predicted; weighted_f1, weighted by support; precision, recall, f1 float64 [C]; support int64 [C].
    """
    confusion = np.asarray(confusion, np.int64)
    true, predicted, correct = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    recall, precision, f1 = ratio(correct, true), ratio(correct, predicted), ratio(2 * correct, true + predicted)
    return {
        "accuracy": float(ratio(correct.sum(), true.sum())),
        "balanced_accuracy": _mean(recall),
        "macro_f1": _mean(f1),
        "weighted_f1": float(ratio(np.nansum(f1 * true), true.sum())),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "support": true,
    }


def selection_score(config: ConfigDict, summary: dict) -> float:
    """What weights are selected by, higher is better: the accuracy, of an intensity head the RMSE if there is one."""
    if config.head.name == "intensity" and "rmse" in summary:
        return -summary["rmse"]
    return summary["accuracy"]


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Division where anything by nothing is NaN, without a warning: float64, of the denominator's shape."""
    denominator = np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """The mean of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
