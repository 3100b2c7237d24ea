"""The L2-SVM net: squared hinge loss, one-vs-rest, on 42x42 faces.

Paper: Tang 2013 (arXiv:1306.0239), winner of the FER2013 challenge with 71.2 % on its test split.
Command: python -m fer_jax.main --config=configs/l2svm.py:fer2013 --data_dir=PATH
After section 3.1: mirrored and shifted faces, the mean image subtracted, momentum. Ours are the rest, rate and epochs
too: whole faces scaled to 42x42 (there crops of that size), no division by each pixel's deviation, no small rotations
and scales, one net instead of an average of eight. Not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "l2svm"
    config.model.input_shape = (42, 42, 1)
    config.model.options.dropout = 0.2
    config.data.normalization = "mean_image"
    config.head.loss = "squared_hinge"
    config.augment.brightness = 0.0
    config.optim.learning_rate = 0.01
    config.optim.nesterov = False
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 60
    return config.lock()
