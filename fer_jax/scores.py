"""Scores: of a confusion matrix, as scikit-learn defines them; by which weights are selected and runs are compared."""

import dataclasses

import numpy as np
from ml_collections import ConfigDict

CALIBRATION_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


@dataclasses.dataclass(frozen=True)
class Measure:
    """By what members are compared."""

    metric: str  # its key in results.json
    heading: str
    unit: str  # in brackets after the heading
    scale: float  # from results.json to the table
    decimals: int
    higher_is_better: bool

    @property
    def title(self) -> str:
        """Of a column or an axis."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def text(self, score: float) -> str:
        """As the table shows it, without its unit."""
        return f"{self.scale * score:.{self.decimals}f}"


ACCURACY = Measure("accuracy", "accuracy", "%", 100, 2, higher_is_better=True)
BALANCED = Measure("balanced_accuracy", "balanced accuracy", "%", 100, 2, higher_is_better=True)
RMSE = Measure("rmse", "RMSE", "", 1, 4, higher_is_better=False)  # of intensities, in 0..1


def beside(measure: Measure) -> Measure:
    """What a table shows beside the measure: of rare classes the accuracy alone says little."""
    return BALANCED if measure is ACCURACY else ACCURACY


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
    return -summary["rmse"] if selected_by_rmse(config, summary) else summary["accuracy"]


def selected_by_rmse(config: ConfigDict, summary: dict) -> bool:
    """Whether it is the RMSE of the intensities that selects weights, not the accuracy."""
    return config.head.name == "intensity" and "rmse" in summary


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Division where anything by nothing is NaN, without a warning: float64, of the denominator's shape."""
    denominator = np.asarray(denominator, np.float64)
    return np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)


def _mean(values: np.ndarray) -> float:
    """The mean of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
