"""AlexNet, with which the papers compare themselves: 57 million parameters, 224x224 RGB.

Paper: Krizhevsky 2014 (arXiv:1404.5997), layers; Krizhevsky et al. 2012, section 5, recipe.
Command: python -m fer_jax.main --config=configs/alexnet.py:fer2013 --data_dir=PATH
After section 5: momentum 0.9, L2 of 5e-4, learning rate 0.01, stepped down by ten, batch 128. The epochs are ours.
Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "alexnet"
    config.model.input_shape = (224, 224, 3)
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.optim.learning_rate = 0.01
    config.optim.nesterov = False
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "step"
    config.optim.decay_epochs = (15, 25)
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()
