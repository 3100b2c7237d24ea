"""The intensity head of the package (`fer_jax.load_pretrained("mini_xception_ferplus_intensity")`).

One sigmoid an emotion (Xu et al., "Facial Expression Intensity Estimation"), trained on the shares of FER+'s ten votes
(Barsoum et al. 2016) from the convolutions of configs/recipes/mini_xception_fer2013.py: RMSE 0.106 on PublicTest's
images with a majority (the paper of the head, on its own data: 0.129), one seed, 12 epochs in 11 minutes on two CPU
cores beside other work. Log: tests/benchmarks/results/mini_xception_ferplus_intensity_pretrained.
Command: python -m fer_jax.main --config=configs/recipes/mini_xception_ferplus_intensity.py --data_dir=PATH
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "ferplus") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "ferplus")
    config.model.name = "mini_xception"
    config.model.input_shape = (48, 48, 1)
    config.model.pretrained = "mini_xception_fer2013"
    config.head.name = "intensity"
    config.data.normalization = "symmetric"
    config.augment.shift = 0.08
    config.augment.rotate = 10.0
    config.augment.scale = 0.1
    config.augment.contrast = 0.2
    config.optim.name = "adam"
    config.optim.learning_rate = 2e-3
    config.optim.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.epochs = 12
    config.train.ema_decay = 0.999
    return config.lock()
