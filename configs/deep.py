"""The deep convolutional net of the Stanford paper: four convolutions, two affine layers.

Paper: Alizadeh & Fazel, Stanford (arXiv:1704.06756), 64 % on the FER2013 test split.
Here: 66.51 ± 0.21 % of PublicTest over three seeds (66.70, 66.29, 66.54), each the best of 30 epochs, selected on the
same images (logs: tests/benchmarks/results/deep_paper_cpu, _seed1 and _seed2); configs/recipes/deep_fer2013.py has
67.37 ± 0.13.
Command: python -m fer_jax.main --config=configs/deep.py:fer2013 --data_dir=PATH
The recipe is ours. Cost: more than two hours on two CPU cores.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "deep"
    config.model.input_shape = (48, 48, 1)
    # Defaults, written out because --config.model.options.NAME=... changes only what is here; all of them are in
    # fer_jax/models/conv_affine.py.
    config.model.options.batch_norm = True
    config.model.options.hidden_batch_norm = True
    config.model.options.conv_dropout = 0.0
    # For True all kernels have to be 3x3: --config.model.options="{'separable': True, 'kernels': 3}"
    config.model.options.separable = False
    config.model.options.global_pool = False
    config.model.options.dropout = (0.0, 0.5)  # of the two affine layers; see fer_jax/models/conv_affine.py
    config.data.normalization = "mean_image"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()
