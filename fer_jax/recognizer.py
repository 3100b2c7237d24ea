"""A trained network as one object: what `weights.safetensors` holds, ready to be asked.

recognizer = load("runs/my_run")              # or a .safetensors file, or the name of a pretrained network
prediction = recognizer.predict(faces)        # cropped faces, uint8 [n, H, W, 1 or 3]
prediction.names                              # ['happy', 'neutral', ...]
prediction.probabilities                      # float32 [n, classes], columns in the order of recognizer.emotions
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from fer_jax import checkpoint, heads, models, ops
from fer_jax.config import model_options
from fer_jax.data import normalization
from fer_jax.data.emotions import expressed
from fer_jax.errors import UserError
from fer_jax.imaging import to_input

log = logging.getLogger(__name__)

SMALL = 4 * 2**20  # bytes of variables, see `is_small`; mini_xception's are 0.2 MB


class Prediction(NamedTuple):
    """What a network sees in n faces."""

    probabilities: np.ndarray  # float32 [n, C], sum 1
    # Float32 [n, E] in 0..1, of `data.emotions.expressed(emotions)`: all but neutral. Of a network that was trained to
    # classify they are the probabilities of these.
    intensities: np.ndarray
    emotions: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The most probable emotion of each face."""
        return [self.emotions[i] for i in self.probabilities.argmax(1)]

    @property
    def damaged(self) -> np.ndarray:
        """Whether these are no probabilities, bool [n]: NaN, of outputs that are not finite, or not 1 in sum."""
        return ~(np.abs(self.probabilities.sum(1) - 1) < 1e-3)

    def require_finite(self, who: str) -> None:
        """Raises a UserError where some are damaged, which names `who` gave them."""
        if count := int(self.damaged.sum()):
            raise UserError(
                f"{who} gives outputs that are not finite for {count:,} of {len(self.probabilities):,} images: its "
                f"weights are damaged or its training diverged; train again, e.g. with a lower optim.learning_rate"
            )


@dataclasses.dataclass(frozen=True)
class Recognizer:
    """A model, its head and its variables (params, batch_stats, normalizer)."""

    model: nn.Module
    head: heads.Head
    variables: dict
    emotions: tuple[str, ...]
    input_shape: tuple[int, int, int]
    dataset: str = ""  # that it was trained on, where known
    align: str = ""  # the method by which those faces were aligned as they were prepared, where one was
    grey: bool = False  # whether those faces had no colour

    def predict(self, images: np.ndarray, *, batch_size: int = 256) -> Prediction:
        """The emotions and intensities of faces: uint8 [n, H, W, 1 or 3], of any size, colours as RGB.

        Batches are padded to a power of two, so that any number of faces compiles only a few programs; a face has
        the same answer alone and among others.

        Raises:
          UserError: images of another shape or of several, on 0..1, or beyond 0..255.
        """
        if not len(images):
            widths = len(self.emotions), len(expressed(self.emotions))
            return Prediction(*(np.zeros((0, width), np.float32) for width in widths), self.emotions)
        try:
            images = np.asarray(images)
        except ValueError:
            sizes = ", ".join(sorted({"x".join(map(str, np.shape(image))) for image in images}))
            raise UserError(
                f"expected faces of one size, not {sizes}: crop them to one, or ask for each by itself"
            ) from None
        if images.ndim != 4 or images.shape[3] not in (1, 3):
            raise UserError(
                f"expected images [n, height, width, 1 or 3], not {list(images.shape)}: one face is images[None], grey "
                f"faces [n, height, width] are images[..., None]"
            )
        if images.dtype.kind == "f" and images.max() <= 1 and (images % 1).any():
            raise UserError("expected images uint8, or on 0..255: these lie in 0..1")
        if images.dtype != np.uint8 and (images.min() < -1 or images.max() > 256):  # of resizing some are 255.00005
            raise UserError(
                f"expected images uint8, or on 0..255: these {images.dtype} lie in {images.min()}..{images.max()}"
            )
        answers = in_batches(self._forward, images, batch_size)
        classes = len(self.emotions)
        return Prediction(answers[:, :classes], answers[:, classes:], self.emotions)

    def to_input(self, images: jax.Array) -> jax.Array:
        """Images [B, H, W, 1 or 3] as the network wants them, [B, h, w, c] float32 on the same scale.

        As `imaging.to_input`; and one that was trained on grey faces is shown grey ones in all of its channels.
        """
        if self.grey:
            images = to_input(images, (*images.shape[1:3], 1))
        return to_input(images, self.input_shape)

    def answer(self, variables: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pure function of `predict`, for a program of one's own: (probabilities [B, C], intensities [B, E]).

        Both are NaN where an output of the network is not finite.
        """
        inputs = normalization.apply(self.to_input(images), variables["normalizer"])
        logits = self.model.apply(variables, inputs, train=False)
        # NaN where they are not finite, of which XLA's softmax makes NaN, all 0 or even shares, as it happens.
        zero = 0 * logits.sum(-1, keepdims=True)
        return self.head.class_probabilities(logits) + zero, self.head.intensities(logits) + zero

    @functools.cached_property
    def _forward(self) -> Callable[[np.ndarray], jax.Array]:
        """The compiled `answer`, its two arrays side by side: [B, C + E].

        A small network's variables are constants of the program. To hand over some sixty small arrays with every call,
        and two answers back instead of one, took a quarter of mini_xception's time for one face on a CPU.
        """

        def both(variables, images):
            return jnp.concatenate(self.answer(variables, images), 1)

        if is_small(self.variables):
            return ops.jit(functools.partial(both, jax.device_get(self.variables)))
        return functools.partial(ops.jit(both), jax.device_put(self.variables))


def in_batches(function: Callable, images: np.ndarray, batch_size: int) -> Any:
    """function(images) of images [n, ...], n above 0: an array [n, ...], or a tree of them, on the host.

    The function is asked for at most `batch_size` at once, and always for a power of two or for `batch_size`.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        count = len(batch)
        padding = min(1 << (count - 1).bit_length(), batch_size) - count
        padded = np.pad(batch, ((0, padding), *[(0, 0)] * (batch.ndim - 1))) if padding else batch
        # Not jax.device_get: 0.15 ms more, a tenth of a live frame's recognition.
        parts.append(jax.tree.map(lambda answer, count=count: np.asarray(answer)[:count], function(padded)))
    return jax.tree.map(lambda *some: np.concatenate(some), *parts)


def load(source: Path | str) -> Recognizer:
    """The network of a run directory, of a weights file, or one that comes with the package, by its name.

    Raises:
      UserError: there is none, its outputs are no emotions, or its arrays are not those of its model.
    """
    return assemble(*checkpoint.load_weights(source), source)


def warn_of_other_alignment(network: str, trained: str, shown: str) -> None:
    """Warns where the faces that a network is shown were aligned by another method than those of its training."""
    if trained != shown:
        told = (f"aligned by the method {method}" if method else "not aligned" for method in (trained, shown))
        log.warning("%s was trained on faces that were %s, these are %s", network, *told)


def is_small(variables: dict) -> bool:
    """Whether a network is so small that calling it costs about as much as its work, for one face on a CPU."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(variables)) <= SMALL


def assemble(variables: dict, metadata: dict, source: Path | str) -> Recognizer:
    """The network of what `checkpoint.load_weights` read from `source`; raises as `load` does."""
    if not metadata.get("emotions"):
        raise UserError(f"{source}: its outputs are no emotions; train with it as --config.model.pretrained first")
    config = ConfigDict({"model": metadata["model"]})
    head_config = metadata.get("head", {"name": "classification", "loss": "softmax"})
    head = heads.make_head(head_config["name"], metadata["emotions"], loss=head_config["loss"])
    model = models.create(
        config.model.name,
        num_outputs=head.num_outputs,
        dtype=models.compute_dtype(config.model.get("dtype", "auto")),
        **model_options(config),
    )
    try:
        shapes = models.variable_shapes(model, tuple(metadata["input_shape"]))
        checkpoint.graft({"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}, variables)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}, as {config.model.name}: {error}") from error
    dataset = metadata.get("results", {}).get("dataset", "")
    emotions, input_shape = tuple(metadata["emotions"]), tuple(metadata["input_shape"])
    told = {"dataset": dataset, "align": metadata.get("align", ""), "grey": metadata.get("grey", False)}
    return Recognizer(model, head, variables, emotions, input_shape, **told)
