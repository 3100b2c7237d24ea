"""Averages: the mean of the answers of several trained networks, or of one network on several views of each image.

    python -m fer_jax.ensemble runs/a runs/b runs/c --data_dir=PATH [--split=test]

The members may differ in architecture and input; their emotions must be the same, and are matched by name. The
data set is the one in the first run's config.
"""

import argparse
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import augment, ops, recognizer
from fer_jax.data import prepare
from fer_jax.data.emotions import remap
from fer_jax.errors import UserError, unknown
from fer_jax.recognizer import Prediction, Recognizer

# Of the variants: brightness from 1 - 0.2 to 1 + 0.2. Xu et al. give no levels; most configs augment by as much.
STRENGTH = 0.2


def ten_crops(images: jax.Array) -> jax.Array:
    """The four corners and the centre of images [B, H, W, C], five sixths of each side, and mirrored: [10, B, h, w, C].

    Of FER2013's 48 pixels 40, as Khaireddin & Chen 2021 (arXiv:2105.03588) evaluate.
    """
    height, width = (round(side * 5 / 6) for side in images.shape[1:3])
    down, across = images.shape[1] - height, images.shape[2] - width
    places = ((0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2))
    crops = jnp.stack([images[:, i : i + height, j : j + width] for i, j in places])
    return jnp.concatenate([crops, crops[:, :, :, ::-1]])


# What an image is shown as besides itself: (images [B, H, W, C], strength) -> views [V, B, h, w, C].
VIEWS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "flip": lambda images, strength: jnp.stack([images, images[:, :, ::-1]]),
    "ten_crop": lambda images, strength: ten_crops(images),
    "variants": lambda images, strength: jnp.moveaxis(
        jax.vmap(functools.partial(augment.variants, strength=strength))(images), 1, 0
    ),
}


def predict_views(
    net: Recognizer, images: np.ndarray, views: str, *, strength: float = STRENGTH, batch_size: int = 256
) -> Prediction:
    """The mean of a network's answers on the views of each image: test-time augmentation.

    Args:
      images: uint8 [n, H, W, 1 or 3], as `Recognizer.predict` takes them.
      views: a key of VIEWS: `flip`, the image and its mirror image; `ten_crop`, see `ten_crops`; `variants`, the 28 of
        `augment.variants`.
      strength: of the variants, in 0..1.
      batch_size: at most so many views at once.

    Raises:
      UserError: unknown views; lists those that there are.
    """
    if views not in VIEWS:
        raise unknown("test-time augmentation", views, VIEWS)
    show = functools.partial(VIEWS[views], strength=strength)
    count = jax.eval_shape(show, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.uint8)).shape[0]

    @ops.jit
    def answer(variables, batch):
        every = show(batch)
        answers = net.answer(variables, every.reshape(-1, *every.shape[2:]))
        return [each.reshape(count, len(batch), -1).mean(0) for each in answers]

    show_all = functools.partial(answer, jax.device_put(net.variables))
    return Prediction(*recognizer.in_batches(show_all, images, max(1, batch_size // count)), net.emotions)


def mean_probabilities(members: Sequence[Recognizer], images: np.ndarray, emotions: tuple[str, ...]) -> np.ndarray:
    """The mean over the members of the probability of each of the emotions: float32 [n, C].

    Raises:
      UserError: a member knows other emotions, or its outputs are not finite.
    """
    total = np.zeros((len(images), len(emotions)), np.float64)
    for number, member in enumerate(members, 1):
        if set(member.emotions) != set(emotions):
            raise UserError(f"a member knows {', '.join(member.emotions)}, the others {', '.join(emotions)}")
        prediction = member.predict(images)
        prediction.require_finite(f"member {number} of {len(members)} of the ensemble")
        total[:, remap(member.emotions, emotions)] += prediction.probabilities
    return (total / len(members)).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m fer_jax.ensemble", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories")
    parser.add_argument("--data_dir", type=Path, help="where the raw data lie")
    parser.add_argument("--split", default="test", help="default: test")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    from fer_jax.report_answers import optimistic_because  # here: it asks ensembles itself

    try:
        members = [recognizer.load(run) for run in options.runs]
        dataset = prepare.load_of_run(options.runs[0], options.data_dir)
        arrays = dataset.arrays(options.split)
        print(f"{dataset.name}, {options.split} split, {len(arrays['label']):,} images")
        rows = [(str(run), [member]) for run, member in zip(options.runs, members, strict=True)]
        for name, some in [*rows, (f"mean of {len(members)}", members)]:
            predicted = mean_probabilities(some, arrays["image"], dataset.emotions).argmax(1)
            print(f"  {(predicted == arrays['label']).mean():7.2%}  {name}")
        for run in options.runs:
            if why := optimistic_because(run, arrays["image"], dataset, options.split, None):
                print(f"optimistic: {why}")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
