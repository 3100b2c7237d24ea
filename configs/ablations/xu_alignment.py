"""How faces are cut out for the small VGG-S: by the detector's box alone, with level eyes, or by the paper's method.

Paper: Xu et al., Purdue/HP, "Face Alignment": none, the traditional rotation, the proposed landmarks. The photographs
of --data_dir are aligned first, once for each method (pip install -e '.[align]'); one without a face stays as it is, so
that all methods are scored on the same images. The default data set, KDEF, is one of the paper's.
Command: python -m fer_jax.sweep --config=configs/ablations/xu_alignment.py:kdef --data_dir=PATH --seeds=3
Quick: the same with --quick
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, product, use_dataset


def get_config(dataset: str = "kdef") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "kdef")
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.augment.shift = 0.04
    config.augment.brightness = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 32
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    return product(data__align=("none", "rotation", "landmarks"))


def quick() -> tuple[dict, list[dict]]:
    return {"model.input_shape": (64, 64, 3), "data.limit": 1000, "train.epochs": 3}, sweep()
