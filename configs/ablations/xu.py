"""What the augmentation brings to the small VGG-S: none, brightness, blur, and the 28 variants in both.

Paper: Xu et al., Purdue/HP, "Data Augmentation". Its other comparisons are in xu_alignment.py and xu_networks.py.
Command: python -m fer_jax.sweep --config=configs/ablations/xu.py:fer2013 --data_dir=PATH --seeds=3
Quick: the same with --quick
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.augment.update({"flip": 0.0, "shift": 0.0, "brightness": 0.0})
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    return [
        {"augment.brightness": 0.0},
        {"augment.brightness": 0.2},
        {"augment.blur": 0.75},  # as often as among the 28, where one of four is not blurred
        {"augment.variant": 0.2},
    ]


def quick() -> tuple[dict, list[dict]]:
    return {"model.input_shape": (64, 64, 3), "data.limit": 2000, "train.epochs": 2}, sweep()
