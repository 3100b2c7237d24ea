"""What to do about rare classes, with a small and a large network: class weights, balanced batches, or nothing.

Paper: Dikshit et al., CMU, section 4: baseline5 and ResNet18 with weighted cross-entropy; of AffectNet
80/10/10 of the training set. One recipe for both networks, ours: that of configs/baseline5.py.
Command: python -m fer_jax.sweep --config=configs/ablations/cmu.py:affectnet --data_dir=PATH --seeds=3
Quick: python -m fer_jax.sweep --config=configs/ablations/cmu.py:fer2013 --data_dir=PATH --quick
The table has the balanced accuracy, the mean over the emotions, beside the accuracy: on FER2013, where one image in 65
shows disgust, weights aim at the former and cost some of the latter. The paper fine-tunes ResNet18 from ImageNet;
here it is trained from scratch. Cost: made for a GPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import default_config, use_dataset


def get_config(dataset: str = "affectnet") -> ConfigDict:
    config = use_dataset(default_config(), dataset or "affectnet", affectnet="80_10_10")
    config.model.name = "baseline5"
    config.model.input_shape = (224, 224, 3)
    config.data.normalization = "per_channel"
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.train.batch_size = 64
    config.train.epochs = 20
    return config.lock()


def sweep() -> list[dict]:
    rules = [{"head.class_weights": "none"}, {"head.class_weights": "inverse"}, {"data.sampling": "balanced"}]
    return [{"model.name": name} | rule for name in ("baseline5", "resnet18") for rule in rules]


def quick() -> tuple[dict, list[dict]]:
    part = {"data.limit": 1250, "data.folds": 5, "data.fold_by": "image"}  # a fifth of few to evaluate on
    return part | {"model.input_shape": (32, 32, 3), "train.epochs": 1}, sweep()
