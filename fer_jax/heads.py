"""Heads: what a network's outputs mean, and the losses that train them.

Every loss is per example, float32 [B], computed in float32 whatever the type of the logits, and agrees with
`torch.nn.functional`. Two heads use them: `ClassificationHead` (one logit per class) and `IntensityHead` (one
sigmoid per expressed emotion, Xu et al.), behind the same interface.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.data.emotions import expressed, remap
from fer_jax.errors import UserError

CLASSIFICATION_LOSSES = ("softmax", "soft", "squared_hinge")
IGNORE = -1  # the label of an example that counts neither in the loss nor in a metric
BETA = 0.999  # of the effective number of samples (Cui et al. 2019, section 3)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-sum(targets * log softmax(logits)) of logits [B, C] and target distributions [B, C]: float32 [B]."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)


def softmax_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: jax.Array | float = 0.0
) -> jax.Array:
    """Cross-entropy of logits [B, C] and labels int [B]: float32 [B].

    The target is `1 - label_smoothing` on the label plus `label_smoothing / C` everywhere (Szegedy et al. 2016).
    """
    classes = logits.shape[-1]
    targets = jax.nn.one_hot(labels, classes) * (1 - label_smoothing) + label_smoothing / classes
    return soft_cross_entropy(logits, targets)


def squared_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Sum over the classes of max(0, 1 - sign * logit)**2, one against the rest (Tang 2013, eq. 8): float32 [B]."""
    sign = 2 * jax.nn.one_hot(labels, logits.shape[-1]) - 1
    return (jnp.maximum(0, 1 - sign * logits.astype(jnp.float32)) ** 2).sum(-1)


def sigmoid_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over the outputs of the binary cross-entropy of logits [B, E] and targets [B, E] in 0..1: float32 [B]."""
    logits = logits.astype(jnp.float32)
    # max(x, 0) - x t + log(1 + exp(-|x|)) never overflows.
    return (jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))).mean(-1)


def example_weights(labels: jax.Array, weights: Sequence[float] | None) -> jax.Array:
    """The weight of each example in the loss: its class's (1 without `weights`), 0 for the label IGNORE: float32 [B].

    The loss of a batch is sum(weights * losses) / sum(weights), CMU equations 1 and 2, as PyTorch's
    `cross_entropy(weight=, ignore_index=)`.
    """
    each = jnp.ones(labels.shape) if weights is None else jnp.asarray(weights)[labels]
    return jnp.where(labels == IGNORE, 0, each)


def class_weights(counts: Sequence[int], *, kind: str, power: float = 1.0) -> np.ndarray:
    """A weight per class from the training split's counts, mean 1 over the classes present: float32 [C].

    Args:
      kind: `inverse` (1 / count, CMU equation 2) or `effective` ((1 - BETA) / (1 - BETA**count), Cui et al. 2019,
        equation 4). A class without examples gets 0: no example of it is ever weighted.
      power: of the weights, before they are scaled: 0 makes them all alike.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    some = np.maximum(counts, 1)
    weights = np.where(present, {"inverse": 1 / some, "effective": (1 - BETA) / (1 - BETA**some)}[kind], 0)
    weights[present] **= power
    return (weights / weights[present].mean()).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ClassificationHead:
    """One logit per class; the loss is `softmax`, `soft` (the batch's intensities as soft labels) or `squared_hinge`.

    Of `soft`, the label itself has the share `label_share` of the target, the intensities the rest; it has all of it
    where they are all 0 and neutral is no class, as of an image whose votes went to emotions that are left out.
    """

    emotions: tuple[str, ...]
    loss_name: str = "softmax"
    label_share: float = 0.0

    @property
    def num_outputs(self) -> int:
        return len(self.emotions)

    def loss(self, logits: jax.Array, batch: dict, *, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
        """The loss of each example: float32 [B]; the squared hinge knows no smoothing."""
        if self.loss_name == "soft":
            hard = jax.nn.one_hot(batch["label"], self.num_outputs)
            shares = soft_labels(batch["intensity"], self.emotions)
            shares = jnp.where(shares.any(-1, keepdims=True), shares, hard)
            targets = hard * self.label_share + shares * (1 - self.label_share)
            targets = targets * (1 - label_smoothing) + label_smoothing / self.num_outputs
            return soft_cross_entropy(logits, targets)
        if self.loss_name == "squared_hinge":
            return squared_hinge(logits, batch["label"])
        return softmax_cross_entropy(logits, batch["label"], label_smoothing=label_smoothing)

    def class_probabilities(self, logits: jax.Array) -> jax.Array:
        """Softmax of the logits: float32 [B, C]."""
        return jax.nn.softmax(logits.astype(jnp.float32))

    def intensities(self, logits: jax.Array) -> jax.Array:
        """The probabilities of the expressed emotions, for want of anything better: float32 [B, E]."""
        return self.class_probabilities(logits)[:, remap(expressed(self.emotions), self.emotions)]


@dataclasses.dataclass(frozen=True)
class IntensityHead:
    """One sigmoid an expressed emotion; neutral is the complement of the strongest (Xu et al.)."""

    emotions: tuple[str, ...]

    @property
    def num_outputs(self) -> int:
        return len(expressed(self.emotions))

    def loss(self, logits: jax.Array, batch: dict, *, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
        """Sigmoid cross-entropy with the batch's intensities, each pulled towards 1/2 by the smoothing: float32 [B]."""
        targets = batch["intensity"] * (1 - label_smoothing) + label_smoothing / 2
        return sigmoid_cross_entropy(logits, targets)

    def class_probabilities(self, logits: jax.Array) -> jax.Array:
        """Intensities with 1 - max(intensity) at neutral's place, scaled to sum 1; argmax is the category: [B, C]."""
        scores = complete(self.intensities(logits), self.emotions, lambda shown: 1 - shown.max(-1))
        return scores / jnp.maximum(scores.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)

    def intensities(self, logits: jax.Array) -> jax.Array:
        """Sigmoid of the logits: float32 [B, E] in 0..1."""
        return jax.nn.sigmoid(logits.astype(jnp.float32))


Head = ClassificationHead | IntensityHead


def make_head(name: str, emotions: Sequence[str], *, loss: str = "softmax", label_share: float = 0.0) -> Head:
    """The head of a config.

    Raises:
      UserError: unknown head or loss; lists the right ones.
    """
    emotions = tuple(emotions)
    if name == "intensity":
        return IntensityHead(emotions)
    if name != "classification":
        raise UserError(f"head.name = {name!r} is unknown: use one of classification, intensity")
    if loss not in CLASSIFICATION_LOSSES:
        raise UserError(f"head.loss = {loss!r} is unknown: use one of {', '.join(CLASSIFICATION_LOSSES)}")
    return ClassificationHead(emotions, loss, label_share)


def soft_labels(intensity: jax.Array, emotions: tuple[str, ...]) -> jax.Array:
    """The distribution [B, C] of intensities [B, E]: neutral gets what the others leave of 1, then all sum to 1.

    Where neutral is not among the emotions, the intensities alone are scaled to the sum 1; rows that are all 0 stay 0.
    """
    shares = complete(intensity, emotions, lambda shown: jnp.maximum(0, 1 - shown.sum(-1)))
    return shares / jnp.maximum(shares.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def complete(intensity: jax.Array, emotions: tuple[str, ...], neutral) -> jax.Array:
    """Intensities [B, E] with the column `neutral(intensity)` [B] at neutral's place, if there is one: [B, C]."""
    if "neutral" not in emotions:
        return intensity
    return jnp.insert(intensity, emotions.index("neutral"), neutral(intensity), axis=-1)
