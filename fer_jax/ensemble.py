"""Averages the predictions of several trained networks, or of one network over several views of each image.

    python -m fer_jax.ensemble runs/a runs/b runs/c --data_dir=PATH [--split=test]

The members may differ in architecture and input; their emotions must be the same, and are matched by name. The
data set is the one in the first run's config.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import augment, ops, process, recognizer, run_directory, seen
from fer_jax.data.emotions import remap
from fer_jax.errors import UserError, exits_with_message, unknown
from fer_jax.files import user_path
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


class Views(NamedTuple):
    """What an image is shown as beside itself."""

    show: Callable[[jax.Array], jax.Array]  # images [B, H, W, C] -> views [V, B, h, w, C]
    told: str  # in a table


VIEWS = {
    "flip": Views(lambda images: jnp.stack([images, images[:, :, ::-1]]), "mean over the image and its mirror image"),
    "ten_crop": Views(ten_crops, "mean over ten crops: corners, centre, mirrored"),
    "variants": Views(
        jax.vmap(functools.partial(augment.variants, strength=STRENGTH), out_axes=1),
        f"mean over {augment.VARIANTS} variants in brightness (1 ± {STRENGTH}) and blur",
    ),
}


def viewer(net: Recognizer, views: str, *, batch_size: int = 256) -> Callable[[np.ndarray], Prediction]:
    """The mean of a network's answers on the views of each image, test-time augmentation, as a function of images.

    These are uint8 [n, H, W, 1 or 3], as `Recognizer.predict` takes them.

    Args:
      views: a key of VIEWS: `flip`, the image and its mirror image; `ten_crop`, see `ten_crops`; `variants`, the 28 of
        `augment.variants` at STRENGTH.
      batch_size: at most so many views at once.

    Raises:
      UserError: unknown views; lists those that there are.
    """
    if views not in VIEWS:
        raise unknown("test-time augmentation", views, VIEWS)
    show = VIEWS[views].show

    @ops.jit
    def answer(variables, batch):
        every = show(batch)
        count = len(every)
        answers = net.answer(variables, every.reshape(-1, *every.shape[2:]))
        return [each.reshape(count, len(batch), -1).mean(0) for each in answers]

    show_all = functools.partial(answer, jax.device_put(net.variables))

    def predict(images: np.ndarray) -> Prediction:
        count = jax.eval_shape(show, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.uint8)).shape[0]
        return Prediction(*recognizer.in_batches(show_all, images, max(1, batch_size // count)), net.emotions)

    return predict


def probabilities(
    net: Recognizer,
    run: Path,
    images: np.ndarray,
    emotions: tuple[str, ...],
    *,
    predict: Callable[[np.ndarray], Prediction] | None = None,
) -> np.ndarray:
    """What the network of a run answers, in the order of `emotions`: float32 [n, C].

    Args:
      predict: in place of its own, such as a `viewer` of it.

    Raises:
      UserError: it knows other emotions, or its outputs are not finite; names the run.
    """
    if set(net.emotions) != set(emotions):
        raise UserError(f"the network of {run} knows {', '.join(net.emotions)}, the images show {', '.join(emotions)}")
    prediction = (predict or net.predict)(images)
    prediction.require_finite(f"the network of {run}")
    return prediction.probabilities[:, remap(emotions, net.emotions)]


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.ensemble", __doc__)
    parser.add_argument("runs", nargs="+", type=user_path, metavar="RUN", help="run directories")
    parser.add_argument("--data_dir", type=user_path, help="where the raw data lie")
    parser.add_argument("--split", default="test", help="default: test")
    options = parser.parse_args(arguments)
    process.set_up()
    members = [(recognizer.load(run), run) for run in options.runs]
    for net, run in members[1:]:
        recognizer.warn_of_other_alignment(str(run), net.align, members[0][0].align)
    dataset = run_directory.dataset(options.runs[0], options.data_dir)
    arrays = dataset.arrays(options.split)
    print(f"{dataset.name}, {options.split} split, {len(arrays['label']):,} images")
    each = [probabilities(*member, arrays["image"], dataset.emotions) for member in members]
    for name, answers in zip([*options.runs, f"mean of {len(each)}"], [*each, np.mean(each, 0)], strict=True):
        print(f"  {(answers.argmax(1) == arrays['label']).mean():7.2%}  {name}")
    for run in options.runs:
        if why := seen.optimistic_because(run, dataset.digests(options.split), dataset, options.split, None):
            print(f"optimistic: {why}")


if __name__ == "__main__":
    main()
