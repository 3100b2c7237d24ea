"""Small VGG-S with the intensity head: one sigmoid for each emotion but neutral, trained by sigmoid cross-entropy.

Paper: Xu et al., Purdue/HP, "Facial Expression Intensity Estimation": RMSE 0.129 and 0.123, accuracy 77.2 and 76 % on
data of its own; 4.5 hours for 50,000 iterations and 5.6 ms an image on a Titan X.
Command: python -m fer_jax.main --config=configs/vggs_small_intensity.py
The recipe is that of configs/vggs_small.py, ours. Faces of `ferplus` have the shares of its votes as intensities
(`:ferplus`); on these configs/recipes/mini_xception_ferplus_intensity.py is measured.
Here: RMSE 0.077, accuracy 91.75 % on the 400 test faces of `synthetic` (log: tests/benchmarks/results/
vggs_small_intensity_cpu), one seed, in 4 minutes of epochs on two CPU cores beside other work.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "synthetic") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "synthetic")
    config.model.name = "vggs_small"
    config.model.input_shape = (128, 128, 3)
    config.model.options.dropout = 0.2
    config.head.name = "intensity"
    config.data.normalization = "per_channel"
    config.augment.shift = 0.04
    config.augment.brightness = 0.1
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.warmup_epochs = 0.5
    config.train.batch_size = 32
    config.train.epochs = 10
    return config.lock()
