"""Small VGG-S with softmax classification on aligned 128x128 faces.

Paper: Xu et al., Purdue/HP: small VGG-S, 12.1 MB.
Command: python -m fer_jax.main --config=configs/vggs_small.py
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset)
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.data.normalization = "per_channel"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 5e-4
    config.optim.warmup_epochs = 0.5
    config.train.epochs = 8
    return config.lock()
