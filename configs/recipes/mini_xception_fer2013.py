"""The mini-Xception of the package (`fer_jax.load_pretrained("mini_xception_fer2013")`): trained longer and harder.

The paper's net (configs/mini_xception.py), a longer schedule with warm-up, a moving average of the weights, and
rotation, scale and contrast beside the default augmentation.
Command: python -m fer_jax.main --config=configs/recipes/mini_xception_fer2013.py --data_dir=PATH
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "mini_xception"
    config.model.input_shape = (48, 48, 1)
    config.data.normalization = "symmetric"
    config.augment.shift = 0.08
    config.augment.rotate = 10.0
    config.augment.scale = 0.1
    config.augment.contrast = 0.2
    config.optim.name = "adam"
    config.optim.learning_rate = 4e-3
    config.optim.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.epochs = 50
    config.train.ema_decay = 0.999
    return config.lock()
