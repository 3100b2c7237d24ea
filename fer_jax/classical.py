"""The classical two-step baselines that the papers compare themselves with: HOG or LBP features, then a linear SVM.

    python -m fer_jax.classical --features=hog --dataset=fer2013 --data_dir=PATH

Features by scikit-image, the SVM by scikit-learn (extra `classical`). Trains on the training split, chooses the
SVM's C on validation where there is a test split to report on, and prints the accuracy.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from fer_jax import process
from fer_jax.data import prepare
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import user_path

SIDE = 48  # pixels
STRENGTHS = (0.001, 0.01, 0.1)  # of C, for standardised features


def hog_features(image: np.ndarray) -> np.ndarray:
    """HOG of a grey image [H, W]: 8 orientations, cells of 8x8 pixels, blocks of 2x2 cells (Dalal & Triggs 2005)."""
    from skimage.feature import hog

    return hog(image, orientations=8, pixels_per_cell=(8, 8), cells_per_block=(2, 2), block_norm="L2-Hys")


def lbp_features(image: np.ndarray, grid: int = 6) -> np.ndarray:
    """Histograms of uniform local binary patterns of a grey image [H, W] in grid x grid regions.

    Shan, Gong & McOwan 2009: 59 bins of the 8-neighbour patterns at radius 2 in each region, joined.
    """
    from skimage.feature import local_binary_pattern

    patterns = local_binary_pattern(image, P=8, R=2, method="nri_uniform").astype(int)
    regions = [part for rows in np.array_split(patterns, grid, 0) for part in np.array_split(rows, grid, 1)]
    return np.concatenate([np.bincount(region.ravel(), minlength=59) / region.size for region in regions])


FEATURES = {"hog": hog_features, "lbp": lbp_features}


def extract(images: np.ndarray, name: str) -> np.ndarray:
    """The features of images uint8 [n, H, W, 1 or 3], made grey and 48x48 first: float32 [n, d]."""

    def prepared(image):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[-1] == 3 else np.ascontiguousarray(image[..., 0])
        return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)

    return np.stack([FEATURES[name](prepared(image)) for image in images]).astype(np.float32)


def fit(features: np.ndarray, labels: np.ndarray, strength: float):
    """A linear SVM (one against the rest) on standardised features, as a scikit-learn pipeline."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    return make_pipeline(StandardScaler(), LinearSVC(C=strength, dual="auto", tol=1e-3)).fit(features, labels)


def run(dataset: prepare.Dataset, features: str) -> tuple[str, float, float]:
    """(split reported on, its accuracy, the C chosen); without a test split C is the middle one, chosen on nothing.

    Raises:
      UserError: no training split, or none to evaluate on.
    """
    split = dataset.reported_split
    if "train" not in dataset.splits or not split:
        raise UserError(
            f"{dataset.name} has the splits {', '.join(dataset.splits)}: it takes one to train and one to evaluate"
        )
    data = {}
    for name in dataset.splits:
        arrays = dataset.arrays(name)
        data[name] = extract(arrays["image"], features), arrays["label"]
    strength = STRENGTHS[1]
    if split == "test" and "validation" in data:
        strength = max(STRENGTHS, key=lambda c: fit(*data["train"], c).score(*data["validation"]))
    return split, fit(*data["train"], strength).score(*data[split]), strength


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.classical", __doc__)
    parser.add_argument("--features", choices=FEATURES, default="hog")
    parser.add_argument("--dataset", default="fer2013")
    parser.add_argument("--variant", help="of the data set")
    parser.add_argument("--data_dir", type=user_path, help="where the raw data lie")
    options = parser.parse_args(arguments)
    process.set_up_logging()
    try:
        dataset = prepare.load(options.dataset, variant=options.variant, data_dir=options.data_dir)
        split, accuracy, strength = run(dataset, options.features)
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'fer_jax[classical]'") from error
    count = dataset.splits[split]
    print(f"{options.features} + SVM (C = {strength}) on {dataset.name}, {split}, {count:,} images: {accuracy:.2%}")


if __name__ == "__main__":
    main()
