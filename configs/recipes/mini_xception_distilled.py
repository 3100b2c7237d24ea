"""mini-Xception taught by larger networks (Hinton et al. 2015): TODO of PublicTest.

The recipe of mini_xception_fer2013.py, on 64x64 at the end, with four fifths of each label the mean answer of five
networks: two of recipes/deep_fer2013.py, three of recipes/mini_xception_fer2013.py, of which one comes with the
package. Alone they have 63.8 to 66.2 % of PublicTest, together TODO.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "mini_xception"
    config.model.input_shape = (64, 64, 1)
    config.data.normalization = "symmetric"
    config.head.loss = "soft"
    config.distill.teachers = ("mini_xception_fer2013", "runs/mini_1", "runs/mini_2", "runs/deep_0", "runs/deep_1")
    config.distill.share = 0.8
    config.augment.shift = 0.1
    config.augment.rotate = 15.0
    config.augment.scale = 0.15
    config.augment.contrast = 0.2
    config.optim.name = "muon"
    config.optim.momentum = 0.95
    config.optim.learning_rate = 0.015
    config.optim.decoupled = True
    config.optim.weight_decay = 0.05
    config.optim.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.smaller_first = ((8, 32), (14, 48))
    config.train.epochs = 40
    config.train.ema_decay = 0.999
    return config.lock()
