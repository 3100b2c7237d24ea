"""Metrics as mergeable sums: computed in the jitted step, added over batches and devices, summarised once.

Counts are integers and therefore exact at any batch size and device count. Definitions are scikit-learn's.
"""

import functools
import operator
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.emotions import expressed
from fer_jax.heads import IGNORE, Head
from fer_jax.scores import CALIBRATION_BINS, classification_scores, ratio


def batch_sums(head: Head, logits: jax.Array, batch: dict, losses: jax.Array) -> dict[str, jax.Array]:
    """The sums of a batch; rows whose mask is False or whose label is IGNORE count nowhere.

    Args:
      logits: [B, outputs of the head]; losses: [B].

    Returns:
      count int32, loss float32, confusion int32 [C, C] (rows true, columns predicted), squared_error and
      absolute_error float32 [E] of the intensities, bin_count int32, bin_correct int32 and bin_confidence
      float32 [15] of the calibration.
    """
    mask = batch["mask"] & (batch["label"] != IGNORE)
    probabilities = head.class_probabilities(logits)
    predicted, confidence = probabilities.argmax(-1), jnp.nan_to_num(probabilities.max(-1))
    label = jnp.where(mask, batch["label"], 0)
    classes = probabilities.shape[-1]
    error = head.intensities(logits) - batch["intensity"]
    bins = jnp.clip((confidence * CALIBRATION_BINS).astype(jnp.int32), 0, CALIBRATION_BINS - 1)
    ones = mask.astype(jnp.int32)
    in_bins = jnp.zeros(CALIBRATION_BINS, jnp.int32)
    return {
        "count": ones.sum(),
        "loss": jnp.where(mask, losses, 0).sum(),
        "confusion": jnp.zeros((classes, classes), jnp.int32).at[label, predicted].add(ones),
        "squared_error": jnp.where(mask[:, None], error**2, 0).sum(0),
        "absolute_error": jnp.where(mask[:, None], jnp.abs(error), 0).sum(0),
        "bin_count": in_bins.at[bins].add(ones),
        "bin_correct": in_bins.at[bins].add(ones * (predicted == label)),
        "bin_confidence": jnp.zeros(CALIBRATION_BINS).at[bins].add(jnp.where(mask, confidence, 0)),
    }


def summed(parts: Iterable[dict]) -> dict:
    """The sums of several sets of examples together, on the host."""
    return functools.reduce(lambda a, b: jax.tree.map(operator.add, a, b), jax.device_get(list(parts)))


def summarize(sums: dict, emotions: tuple[str, ...], *, has_intensity: bool) -> dict[str, float | None]:
    """The sums as numbers for people; what is undefined (a class without examples) is None, never 0.

    The scores are those of `scores.classification_scores`; `accuracy/<emotion>` is the recall; `ece` the expected
    calibration error; RMSE is in units of intensity (0..1), given only when the data set has intensities.
    """
    count = int(sums["count"])
    of_classes = classification_scores(sums["confusion"])
    gap = np.abs(np.asarray(sums["bin_correct"], np.float64) - np.asarray(sums["bin_confidence"], np.float64))
    summary = {
        "count": count,
        "loss": ratio(float(sums["loss"]), count),
        **{name: of_classes[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")},
        "ece": ratio(gap.sum(), count),
    }
    for i, emotion in enumerate(emotions):
        summary[f"accuracy/{emotion}"] = of_classes["recall"][i]
        summary[f"f1/{emotion}"] = of_classes["f1"][i]
    if has_intensity:
        squared, absolute = (np.asarray(sums[name], np.float64) for name in ("squared_error", "absolute_error"))
        summary["rmse"] = np.sqrt(ratio(squared.mean(), count))
        summary["mae"] = ratio(absolute.mean(), count)
        for i, emotion in enumerate(expressed(emotions)):
            summary[f"rmse/{emotion}"] = np.sqrt(ratio(squared[i], count))
    return {name: _finite(value) for name, value in summary.items()}


def _finite(value) -> int | float | None:
    if isinstance(value, int):
        return value
    return float(value) if np.isfinite(value) else None
