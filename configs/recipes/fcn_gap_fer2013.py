"""The fully convolutional net with global average pooling on FER2013, trained longer and harder than in its paper.

The net of configs/fcn_gap.py, with augmentation in position, size, contrast and by erasing, label smoothing, a warm-up
and a moving average of the weights. Aim: 68 % of PublicTest (the paper: 66); not trained yet, for it takes a GPU.
Command: python -m fer_jax.main --config=configs/recipes/fcn_gap_fer2013.py --data_dir=PATH
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "fcn_gap"
    config.model.input_shape = (48, 48, 1)
    config.model.options.dropout = 0.2
    config.data.normalization = "symmetric"
    config.head.label_smoothing = 0.1
    config.augment.shift = 0.08
    config.augment.rotate = 10.0
    config.augment.scale = 0.1
    config.augment.contrast = 0.2
    config.augment.erase = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 4e-3
    config.optim.warmup_epochs = 2.0
    config.train.batch_size = 128
    config.train.epochs = 150
    config.train.ema_decay = 0.999
    return config.lock()
