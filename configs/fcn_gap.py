"""The fully convolutional net with global average pooling: nine convolutions, 628 k parameters.

Paper: Kaskun et al., Lviv (66 % on FER2013); after Arriaga et al. 2017.
Here: 62.43 ± 0.77 % of PublicTest over three seeds (63.00, 62.75, 61.55), each the best of 30 epochs, selected on the
same images (logs: tests/benchmarks/results/fcn_gap_paper_cpu, _seed1 and _seed2); better by
configs/recipes/fcn_gap_fer2013.py.
Command: python -m fer_jax.main --config=configs/fcn_gap.py:fer2013 --data_dir=PATH
The recipe is ours. Cost: 17 to 39 minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "fcn_gap"
    config.model.input_shape = (48, 48, 1)
    config.model.options.dropout = 0.2
    config.data.normalization = "symmetric"
    config.optim.name = "adam"
    config.optim.learning_rate = 2e-3
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()
