"""A VGG for the eight emotions of FER+, trained on the shares of its ten votes.

The net of configs/fer2013_best.py with narrower affine layers and the votes as soft labels, which Barsoum et al. 2016
(arXiv:1608.01041) found better than the majority. Aim: 86 % by the majority; not trained yet, for it takes a GPU.
Command: python -m fer_jax.main --config=configs/recipes/ferplus_majority.py --data_dir=PATH
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "ferplus") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "ferplus")
    config.model.name = "vgg8"
    config.model.input_shape = (48, 48, 1)
    config.model.options.hidden = (1024, 1024)
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.head.loss = "soft"
    config.augment.shift = 0.15
    config.augment.rotate = 10.0
    config.augment.scale = 0.2
    config.augment.contrast = 0.2
    config.augment.erase = 0.2
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 2e-4
    config.optim.warmup_epochs = 2.0
    config.train.batch_size = 64
    config.train.epochs = 120
    config.train.ema_decay = 0.9995
    return config.lock()
