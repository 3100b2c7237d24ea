"""VGG16, with which the papers compare themselves: 134 million parameters, 224x224 RGB.

Paper: Simonyan & Zisserman 2015 (arXiv:1409.1556), section 3.1.
From ImageNet: python -m fer_jax.convert (see its --help), then --config.model.pretrained=FILE
Command: python -m fer_jax.main --config=configs/vgg16.py:fer2013 --data_dir=PATH
After section 3.1: momentum 0.9, L2 of 5e-4, dropout 0.5, learning rate 0.01, stepped down by ten, batch 256.
Epochs, warm-up and clipping are ours. Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "vgg16"
    config.model.input_shape = (224, 224, 3)
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.optim.learning_rate = 0.01
    config.optim.nesterov = False
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "step"
    config.optim.warmup_epochs = 1.0
    config.optim.decay_epochs = (15, 25)
    config.optim.clip_norm = 1.0
    config.train.batch_size = 256
    config.train.epochs = 30
    return config.lock()
