"""A run of seconds for the tests: a small BatchNorm + dropout net on a tiny FER2013 file."""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "shallow"
    config.model.options.update({"filters": (8, 8), "hidden": (16,)})
    config.model.input_shape = (48, 48, 1)
    config.data.normalization = "mean_image"
    config.optim.learning_rate = 0.05
    config.train.ema_decay = 0.9
    return config.lock()
