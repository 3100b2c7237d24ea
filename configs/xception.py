"""Xception, with which the papers compare themselves: 21 million parameters, 299x299 RGB.

Paper: Chollet 2017 (arXiv:1610.02357), sections 4.2 and 4.3, the recipe for ImageNet.
Command: python -m fer_jax.main --config=configs/xception.py:fer2013 --data_dir=PATH
After section 4.2: momentum 0.9, learning rate 0.045, times 0.94 every two epochs, L2 of 1e-5, dropout 0.5. Batch and
epochs are ours. Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "xception"
    config.model.input_shape = (299, 299, 3)
    config.model.options.dropout = 0.5
    config.data.normalization = "symmetric"
    config.optim.learning_rate = 0.045
    config.optim.nesterov = False
    config.optim.weight_decay = 1e-5
    config.optim.schedule = "step"
    config.optim.decay_epochs = tuple(range(2, 30, 2))
    config.optim.decay_factor = 0.94
    config.train.batch_size = 32
    config.train.epochs = 30
    return config.lock()
