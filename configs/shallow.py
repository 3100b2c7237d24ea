"""The shallow convolutional net of the Stanford paper: two convolutions, one affine layer.

Paper: Alizadeh & Fazel, Stanford (arXiv:1704.06756), 54 % on the FER2013 test split.
Here: 59.99 ± 0.41 % of PublicTest over three seeds (59.52, 60.21, 60.24), the best of 30 epochs, selected on the same
images (logs: tests/benchmarks/results/shallow_paper_*). configs/recipes/shallow_fer2013.py is no better: 59.93 ± 0.46.
Command: python -m fer_jax.main --config=configs/shallow.py:fer2013 --data_dir=PATH
The recipe is ours. Cost: 50 to 99 minutes on two CPU cores beside other work.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "shallow"
    config.model.input_shape = (48, 48, 1)
    # Defaults, written out because --config.model.options.NAME=... changes only what is here; all of them are in
    # fer_jax/models/conv_affine.py.
    config.model.options.batch_norm = True
    config.model.options.hidden_batch_norm = True
    config.model.options.conv_dropout = 0.0
    config.model.options.separable = False
    config.model.options.global_pool = False
    config.model.options.dropout = 0.5
    config.data.normalization = "mean_image"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()
