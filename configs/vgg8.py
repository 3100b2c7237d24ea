"""The VGG with the most quoted result on FER2013: eight convolutions in four stages, two affine layers of 4,096.

The optimizer, dropout and augmentation are those of its authors' code (github.com/usef-kh/fer) as far as ours has them:
there only half of the images are shifted and rotated, each is trained on as ten 40-pixel crops, a part of half of these
is erased (in black, here in noise), and the learning rate is reduced when accuracy plateaus. Not trained yet, as it
needs a GPU.
Paper: Khaireddin & Chen 2021 (arXiv:2105.03588), SGD with Nesterov momentum, 73.28 % of FER2013. By its class
counts that is PublicTest accuracy with ten-crop averaging (`--tta ten_crop`), selected on PrivateTest: the reverse of
the splits here.
Command: python -m fer_jax.main --config=configs/vgg8.py:fer2013 --data_dir=PATH
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "vgg8"
    config.model.input_shape = (48, 48, 1)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.augment.shift = 0.2
    config.augment.rotate = 10.0
    config.augment.scale = 0.1
    config.augment.brightness = 0.0
    config.augment.erase = 0.33
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 64
    config.train.epochs = 300
    return config.lock()
