"""Small VGG-S with softmax classification on aligned 128x128 faces.

Paper: Xu et al., Purdue/HP: small VGG-S, 12.1 MB.
Command: python -m fer_jax.main --config=configs/vggs_small.py
Cost: 2 to 6 minutes on 2 CPU cores. Measured: 94.25 and 96.75 % on the 400 test faces of `synthetic` (2 seeds).
The recipe is ours, chosen on the validation split of `synthetic`.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.augment.shift = 0.04
    config.augment.brightness = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 32
    config.train.epochs = 10
    return config.lock()
