"""Deep-Emotion: attention by a spatial transformer, 67 k parameters.

Paper: Minaee & Abdolrashidi 2019 (arXiv:1902.01019), section 3 (70.02 % on the FER2013 test split).
Command: python -m fer_jax.main --config=configs/deep_emotion.py:fer2013 --data_dir=PATH
After section 3: Adam with L2, mirrored faces. The paper's rate of 0.005 for 500 epochs is lowered and shortened here.
Not measured.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "deep_emotion"
    config.model.input_shape = (48, 48, 1)
    config.model.options.dropout = 0.5
    config.data.normalization = "per_channel"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 64
    config.train.epochs = 60
    return config.lock()
