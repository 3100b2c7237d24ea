"""The data sets, each a TFDS builder in a file of its own: raw official layout in, ArrayRecord out.

Importing this package costs TFDS's import (a second) and no TensorFlow.
"""

from fer_jax.data.datasets.affectnet import Affectnet
from fer_jax.data.datasets.base import FaceBuilder
from fer_jax.data.datasets.ckplus import Ckplus
from fer_jax.data.datasets.fer2013 import Fer2013
from fer_jax.data.datasets.ferplus import Ferplus
from fer_jax.data.datasets.jaffe import Jaffe
from fer_jax.data.datasets.kdef import Kdef
from fer_jax.data.datasets.mug import Mug
from fer_jax.data.datasets.own import Csv, Folder
from fer_jax.data.datasets.synthetic import Synthetic

DATASETS: dict[str, type[FaceBuilder]] = {
    "synthetic": Synthetic,
    "fer2013": Fer2013,
    "ferplus": Ferplus,
    "ckplus": Ckplus,
    "jaffe": Jaffe,
    "kdef": Kdef,
    "mug": Mug,
    "affectnet": Affectnet,
    "csv": Csv,
    "folder": Folder,
}
