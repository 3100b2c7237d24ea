"""Affine layers or global average pooling, standard or depthwise-separable convolutions, and the optimizers.

Paper: Kaskun et al., Lviv, section 3 and figure 5. The net is `deep` with four 3x3 convolutions, with options for
both: global pooling replaces its affine layers. configs/mini_xception.py has model.options.separable as well.
Command: python -m fer_jax.sweep --config=configs/ablations/lviv.py:fer2013 --data_dir=PATH --seeds=5
Quick: the same with --quick
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset, zipped


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "deep"
    config.model.options.filters = (64, 128, 512, 512)
    config.model.options.kernels = 3
    config.model.options.global_pool = False
    config.model.options.separable = False
    config.model.input_shape = (48, 48, 1)
    config.data.normalization = "symmetric"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    affine = {
        "model.options.global_pool": False,
        "model.options.hidden": (256, 512),
        "model.options.dropout": (0.0, 0.5),
    }
    pooled = {"model.options.global_pool": True, "model.options.hidden": (), "model.options.dropout": 0.0}
    nets = [
        ending | {"model.options.separable": separable} for ending in (affine, pooled) for separable in (False, True)
    ]
    return nets + zipped(optim__name=("sgd", "rmsprop", "adagrad"), optim__learning_rate=(0.02, 1e-3, 0.01))


def quick() -> tuple[dict, list[dict]]:
    narrow = {"model.options.filters": (16, 32, 64, 64), "model.input_shape": (32, 32, 1)}
    return narrow | {"data.limit": 2000, "train.epochs": 2}, sweep()
