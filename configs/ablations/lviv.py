"""What mini-Xception owes to its depthwise-separable convolutions, and to its width: a table of four cells.

Paper: Kaskun et al., Lviv, section 3.
Command: python -m fer_jax.sweep --config=configs/ablations/lviv.py:fer2013 --data_dir=PATH --seeds=5
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, product, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "mini_xception"
    config.model.input_shape = (48, 48, 1)
    config.data.normalization = "symmetric"
    config.optim.name = "adam"
    config.optim.learning_rate = 2e-3
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    widths = ((16, 32, 64, 128), (8, 16, 32, 64))
    return product(model__options__separable=(True, False), model__options__filters=widths)
