"""The hyper-parameters of the Stanford paper's deep net by cross-validation: learning rate, L2 and hidden units.

Paper: Alizadeh & Fazel, Stanford (arXiv:1704.06756), table 2. The paper's search grid is unknown to
us: this one is ours, in factors of about three and ten, around configs/deep.py. FER2013 has no subject identities, so
its training split is divided by image; the other splits remain for testing the choice.
Command: python -m fer_jax.sweep --config=configs/ablations/stanford_table2.py:fer2013 --data_dir=PATH
Quick: the same with --quick. The grid is large: --halving=3 costs less.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, product, use_dataset

FOLDS = 3


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "deep"
    config.model.input_shape = (48, 48, 1)
    config.model.options.hidden = (256, 512)
    config.data.normalization = "mean_image"
    config.data.folds = FOLDS
    config.data.fold_by = "image"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    return product(
        optim__learning_rate=(1e-3, 3e-3, 0.01, 0.03, 0.1),
        optim__weight_decay=(1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
        model__options__hidden=((128, 256), (256, 512), (512, 512)),
        data__fold=range(FOLDS),
    )


def quick() -> tuple[dict, list[dict]]:
    smaller = {"model.input_shape": (24, 24, 1), "data.limit": 800, "data.folds": 2, "train.epochs": 1}
    return smaller | {"train.batch_size": 64}, product(
        optim__learning_rate=(3e-3, 0.03),
        optim__weight_decay=(1e-5, 1e-3),
        model__options__hidden=((64, 128), (256, 512)),
        data__fold=range(2),
    )
