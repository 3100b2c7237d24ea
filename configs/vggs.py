"""The original VGG-S with softmax classification: 99 million parameters, 224x224 RGB.

Papers: Xu et al., Purdue/HP; Chatfield et al. 2014 (arXiv:1405.3531), CNN-S. Its weights are 395 MB in float32 (411
with ImageNet's 1,000 classes); Xu et al. give over 500 MB for their file, and do not say what else it holds.
Command: python -m fer_jax.main --config=configs/vggs.py:fer2013 --data_dir=PATH
After Chatfield et al., section 3: momentum 0.9, L2 of 5e-4, dropout 0.5, learning rate stepped down by ten.
Learning rate, batch and epochs are ours. Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "vggs"
    config.model.input_shape = (224, 224, 3)
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.optim.learning_rate = 0.01
    config.optim.nesterov = False
    config.optim.weight_decay = 5e-4
    config.optim.schedule = "step"
    config.optim.decay_epochs = (15, 25)
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()
