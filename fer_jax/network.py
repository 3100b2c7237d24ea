"""A trained network as one object: what `weights.safetensors` holds, ready to be asked.

network = network.load("runs/my_run")        # or a .safetensors file
network.probabilities(images)                 # uint8 [n, H, W, 1 or 3] -> float32 [n, classes]
"""

import dataclasses
import functools
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from fer_jax import checkpoint, heads, models
from fer_jax.config import model_options
from fer_jax.data import normalization
from fer_jax.errors import UserError
from fer_jax.imaging import to_input


@dataclasses.dataclass(frozen=True)
class Network:
    """A model, its head and its variables (params, batch_stats, normalizer)."""

    model: nn.Module
    head: heads.Head
    variables: dict
    emotions: tuple[str, ...]
    input_shape: tuple[int, int, int]

    def probabilities(self, images: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """The probability of each emotion: float32 [n, C] for images uint8 [n, H, W, 1 or 3] of any size."""
        parts = []
        for start in range(0, len(images), batch_size):
            batch = np.asarray(images[start : start + batch_size])
            padded = np.pad(batch, ((0, batch_size - len(batch)), (0, 0), (0, 0), (0, 0)))
            parts.append(np.asarray(self._forward(self.variables, padded))[: len(batch)])
        return np.concatenate(parts) if parts else np.zeros((0, len(self.emotions)), np.float32)

    @functools.cached_property
    def _forward(self):
        @jax.jit
        def forward(variables, images):
            inputs = normalization.apply(to_input(images, self.input_shape), variables["normalizer"])
            return self.head.class_probabilities(self.model.apply(variables, inputs, train=False))

        return forward


def load(path: Path | str) -> Network:
    """The network of a run directory or of a weights file.

    Raises:
      UserError: there is none, or its outputs are no emotions.
    """
    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    variables, metadata = checkpoint.load_weights(path)
    if not metadata.get("emotions"):
        raise UserError(f"{path}: its outputs are no emotions; train with it as --config.model.pretrained first")
    config = ConfigDict({"model": metadata["model"]})
    head_config = metadata.get("head", {"name": "classification", "loss": "softmax"})
    head = heads.make_head(head_config["name"], metadata["emotions"], loss=head_config["loss"])
    model = models.create(
        config.model.name,
        num_outputs=head.num_outputs,
        dtype=models.compute_dtype(config.model.get("dtype", "auto")),
        **model_options(config),
    )
    return Network(model, head, variables, tuple(metadata["emotions"]), tuple(metadata["input_shape"]))
