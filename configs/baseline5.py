"""The CMU baseline: five convolutions with ReLU and max-pooling, one linear layer, 224x224 RGB.

Paper: Dikshit et al., CMU (about 70 % on AffectNet, eight classes); weighted cross-entropy. The recipe is ours.
Of `:affectnet` 80/10/10 of its training set are taken, as in the paper.
Command: python -m fer_jax.main --config=configs/baseline5.py:fer2013 --data_dir=PATH
Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic", affectnet="80_10_10")
    config.model.name = "baseline5"
    config.model.input_shape = (224, 224, 3)
    # Defaults, written out because --config.model.options.NAME=... changes only what is here; all of them are in
    # fer_jax/models/conv_affine.py.
    config.model.options.batch_norm = False
    config.model.options.conv_dropout = 0.0
    config.model.options.separable = False
    config.model.options.global_pool = False
    config.model.options.filters = (16, 32, 64, 128, 256)  # the widths are ours
    config.data.normalization = "per_channel"
    config.head.class_weights = "inverse"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.train.batch_size = 64
    config.train.epochs = 20
    return config.lock()
