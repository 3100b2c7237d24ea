"""ResNet18, which the CMU paper compares with its baseline.

Paper: Dikshit et al., CMU (about 72 % on AffectNet, eight classes); He et al. 2016. The recipe is ours.
Of `:affectnet` 80/10/10 of its training set are taken, as in the paper.
There it is fine-tuned from ImageNet: python -m fer_jax.convert (see its --help), then --config.model.pretrained=FILE
Command: python -m fer_jax.main --config=configs/resnet18.py:fer2013 --data_dir=PATH
For 48x48 faces: --config.model.options.small_stem=True --config.model.input_shape="(48, 48, 1)"
Not measured. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic", affectnet="80_10_10")
    config.model.name = "resnet18"
    config.model.input_shape = (224, 224, 3)
    config.model.options.small_stem = False
    config.data.normalization = "per_channel"
    config.head.class_weights = "inverse"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 5e-4
    config.optim.warmup_epochs = 1.0
    config.train.batch_size = 64
    config.train.epochs = 30
    return config.lock()
