"""The original VGG-S against the small one, each with its own optimizer.

Paper: Xu et al., Purdue/HP: over 500 MB against 12.1 MB of weights; 85 % on their validation, 82 % on their test split.
Command: python -m fer_jax.sweep --config=configs/ablations/xu_networks.py:fer2013 --data_dir=PATH --seeds=3
Quick: the same with --quick
The recipes are those of configs/vggs.py and configs/vggs_small.py with one batch size, schedule and augmentation.
Cost: the original is made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.nesterov = False
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    return _nets(original=(224, 224, 3), small=(128, 128, 3))


def quick() -> tuple[dict, list[dict]]:
    part = {"data.limit": 800, "data.folds": 5, "data.fold_by": "image"}  # a fifth of few to evaluate on
    return part | {"train.epochs": 1}, _nets(original=(32, 32, 3), small=(32, 32, 3))


def _nets(original: tuple[int, int, int], small: tuple[int, int, int]) -> list[dict]:
    sgd = {"optim.name": "sgd", "optim.learning_rate": 0.01, "optim.weight_decay": 5e-4, "model.options.dropout": 0.5}
    return [
        {"model.name": "vggs", "model.input_shape": original} | sgd,
        {"model.name": "vggs_small", "model.input_shape": small},
    ]
