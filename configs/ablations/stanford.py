"""The ablations of the Stanford paper in one table: depth, BatchNorm, dropout, L2, global average pooling, HOG.

Two, four, five and six convolutions (shallow, deep, deep5, deep6), two of these nets with and without HOG features, and
`deep` without one thing at a time or with pooling before its affine layers. The hyper-parameter search is in
stanford_table1.py and stanford_table2.py.
Paper: Alizadeh & Fazel, Stanford (arXiv:1704.06756), section 4, and Kaskun et al., Lviv, for the pooling.
Command: python -m fer_jax.sweep --config=configs/ablations/stanford.py:fer2013 --data_dir=PATH --seeds=3
Quick: the same with --quick
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "fer2013") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "fer2013")
    config.model.name = "deep"
    config.model.input_shape = (48, 48, 1)
    config.data.normalization = "mean_image"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.train.batch_size = 128
    config.train.epochs = 30
    return config.lock()


def sweep() -> list[dict]:
    depth = [{"model.name": name} for name in ("shallow", "deep", "deep5", "deep6")]
    # HOG are those of the face only where no mean image is subtracted, so the nets without them come that way, too.
    hybrids = [
        {"model.name": name, "data.normalization": "per_channel"}
        for name in ("shallow", "shallow_hog", "deep", "deep_hog")
    ]
    switches = [
        {"model.options.batch_norm": False, "model.options.hidden_batch_norm": False},
        {"model.options.dropout": 0.0},
        {"optim.weight_decay": 0.0},
        {"model.options.global_pool": True},
    ]
    return depth + hybrids + switches


def quick() -> tuple[dict, list[dict]]:
    part = {"data.limit": 1250, "data.folds": 5, "data.fold_by": "image"}  # a fifth of few to evaluate on
    return part | {"model.input_shape": (24, 24, 1), "train.batch_size": 64, "train.epochs": 1}, sweep()
