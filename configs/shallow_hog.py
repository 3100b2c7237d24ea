"""The Stanford paper's hybrid: the shallow net, whose affine layer sees HOG features as well.

Paper: Alizadeh & Fazel, Stanford (arXiv:1704.06756), section 3; no gain over pixels alone there.
Command: python -m fer_jax.main --config=configs/shallow_hog.py:fer2013 --data_dir=PATH
The recipe is ours, that of configs/shallow.py, except for the normalisation: HOG of a mean-subtracted image
are not those of the face. Not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "shallow_hog"
    config.model.input_shape = (48, 48, 1)
    # Defaults, written out because --config.model.options.NAME=... changes only what is here; all of them are in
    # fer_jax/models/conv_affine.py.
    config.model.options.batch_norm = True
    config.model.options.hidden_batch_norm = True
    config.model.options.conv_dropout = 0.0
    config.model.options.separable = False
    config.model.options.global_pool = False
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()
