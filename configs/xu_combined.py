"""Small VGG-S on three data sets of posed faces at once, validated on two others.

Paper: Xu et al., Purdue/HP, Table 3: trained on MUG, CK+ and JAFFE, validated on MUG-manual and KDEF.
Command: python -m fer_jax.main --config=configs/xu_combined.py --data_dir=PATH
PATH holds a folder for each part: mug, ckplus, jaffe, kdef, laid out as `python -m fer_jax.data.prepare --help` says;
and mug_manual with a CSV file, path,emotion,subject, of those images of MUG whose landmarks were set by hand. Best
aligned: `--config.data.align=landmarks`.
The emotions are the seven that all of them have: CK+'s contempt is left out. The people of MUG-manual are people of
MUG, so on it this validation, like the paper's, is not subject-independent; on KDEF it is.
The recipe is that of configs/vggs_small.py. Not measured: the data are given out on request.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset
from fer_jax.data.emotions import BASIC7


def get_config(dataset: str = "") -> ConfigDict:
    config = default_config()
    if dataset:
        use_dataset(config, dataset)
    else:
        config.data.name = "xu_combined"
        config.data.train = ({"name": "mug"}, {"name": "ckplus"}, {"name": "jaffe"})
        config.data.validation = ({"name": "csv", "folder": "mug_manual"}, {"name": "kdef", "variant": "straight"})
        config.data.emotions = BASIC7
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.data.normalization = "per_channel"
    config.augment.shift = 0.04
    config.augment.brightness = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 32
    config.train.epochs = 10
    return config.lock()
