"""Inception V3, with which the papers compare themselves: 22 million parameters, 299x299 RGB.

Paper: Szegedy et al. 2016 (arXiv:1512.00567), section 8.
Command: python -m fer_jax.main --config=configs/inception_v3.py:fer2013 --data_dir=PATH
After section 8: RMSProp, label smoothing 0.1, gradients clipped at 2.0, rate times 0.94 every two epochs,
an average of the weights. Ours are learning rate, batch, epochs, and
RMSProp's epsilon (there 1). Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "inception_v3"
    config.model.input_shape = (299, 299, 3)
    config.data.normalization = "symmetric"
    config.head.label_smoothing = 0.1
    config.optim.name = "rmsprop"
    config.optim.learning_rate = 1e-3
    config.optim.schedule = "step"
    config.optim.decay_epochs = tuple(range(2, 30, 2))
    config.optim.decay_factor = 0.94
    config.optim.clip_norm = 2.0
    config.train.ema_decay = 0.999
    config.train.batch_size = 32
    config.train.epochs = 30
    return config.lock()
