"""Pictures of what trained networks look at and have learnt.

    python -m fer_jax.visualize --workdir=RUN --split=validation --output=DIR [--data_dir=PATH]
    python -m fer_jax.visualize --workdir=RUN --image=FACE.png... --output=DIR
    python -m fer_jax.visualize --workdir RUN RUN... --split=validation --output=DIR

explanations.png  a face a row: guided backpropagation, Grad-CAM and occlusion
activations.png   the maps of some layers for the first face
training.png      the maps of one layer after some epochs, where the run kept its weights (--config.train.keep_every=5)
filters.png       the first convolution's filters
dreams.png        DeepDream of every emotion, from noise and from the first face
embedding.png     the features before the last layer on their first two principal components

On a split, each emotion is shown by the face of that label which the network is most confident of,
and explained for that emotion; image files, which should show one cropped face each, for the predicted emotion.

Several runs are set side by side on the same faces of a split, a row for each emotion and a column for each run:
guided_backpropagation.png, grad_cam.png and dreams.png (from noise).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fer_jax import process, recognizer, report_compare, report_figures, run_directory
from fer_jax.data.emotions import relabel
from fer_jax.errors import UserError, exits_with_message
from fer_jax.files import read_image, user_path
from fer_jax.recognizer import Recognizer
from fer_jax.report_figures import Faces

MOST_FACES = 1000  # of a split that are looked at
EPOCHS_SHOWN = 6


def faces_of_files(net: Recognizer, paths: Sequence[Path]) -> Faces:
    """Image files, each resized to the network's input.

    Raises:
      UserError: one cannot be read.
    """
    images = []
    for path in paths:
        image = read_image(path)
        if image is None:
            raise UserError(f"{path} cannot be read as an image: give PNG or JPEG files of one cropped face each")
        images.append(net.to_input(jnp.asarray(image[None]))[0])
    images = np.stack(images)
    labels = np.full(len(images), -1)
    return Faces(images, labels, net.predict(images).probabilities, f"{len(images)} image files")


def visualize(
    net: Recognizer,
    faces: Faces,
    output: Path,
    *,
    activation_layers: Sequence[str] = (),
    cam_layer: str | None = None,
    kept: Sequence[Path] = (),
    seed: int = 0,
) -> list[Path]:
    """Draws every picture of one network into `output`, which must exist; returns their paths.

    Args:
      kept: weights files of the same network earlier in its training, for training.png.
      activation_layers: names of `explain.maps`; none: some ReLUs from all over the net.
      cam_layer: for Grad-CAM; None: as of `explain.grad_cam`.
      seed: of the dreams.
    """
    figures = {
        "activations": report_figures.activations(net, faces, activation_layers),
        "explanations": report_figures.explanations(net, faces, cam_layer=cam_layer),
        "filters": report_figures.filters(net),
        "dreams": report_figures.dreams(jax.random.key(seed), net, faces),
    }
    if kept:
        nets = {path.stem: recognizer.load(path) for path in _some(kept)}
        layer = activation_layers[0] if activation_layers else None
        figures["training"] = report_figures.through_training(nets, faces.images[faces.shown()[0]], layer)
    if len(faces.images) >= 3:
        figures["embedding"] = report_figures.embedding(net, faces)
    return _save(figures, output)


def visualize_several(
    workdirs: Sequence[Path], split: str, output: Path, *, data_dir: Path | None = None, seed: int = 0
) -> list[Path]:
    """Draws the pictures of several networks side by side into `output`, which must exist; returns their paths.

    The faces are of the data set of the first run: for each emotion that all networks know the one that they are
    surest of on average.

    Raises:
      UserError: no such data or split, or it shows none of the emotions that all networks know.
    """
    names = report_compare.labels(workdirs, width=25)
    nets = dict(zip(names, map(recognizer.load, workdirs), strict=True))
    shared = [name for name in nets[names[0]].emotions if all(name in net.emotions for net in nets.values())]
    dataset = run_directory.dataset(workdirs[0], data_dir)
    images, labels, source = dataset.showing(split, shared, most=MOST_FACES)
    sure = np.zeros(len(images))
    for net in nets.values():
        own = relabel(labels, shared, net.emotions)
        sure += net.predict(images).probabilities[np.arange(len(images)), own]
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    chosen = np.array([some[sure[some].argmax()] for some in members])
    emotions = [shared[label] for label in labels[chosen]]
    return _save(report_figures.across(jax.random.key(seed), nets, images[chosen], emotions, source), output)


def _some(kept: Sequence[Path]) -> list[Path]:
    """At most EPOCHS_SHOWN of the files, the first and the last among them."""
    places = np.linspace(0, len(kept) - 1, min(EPOCHS_SHOWN, len(kept)))
    return [kept[place] for place in places.round().astype(int)]


def _save(figures: dict, output: Path) -> list[Path]:
    paths = [output / f"{name}.png" for name in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        figure.savefig(path)
    return paths


@exits_with_message
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    parser = process.argument_parser("fer_jax.visualize", __doc__)
    parser.add_argument(
        "--workdir",
        required=True,
        type=user_path,
        nargs="+",
        metavar="RUN",
        help="a run directory, or its weights.safetensors; several to set them side by side",
    )
    faces_from = parser.add_mutually_exclusive_group(required=True)
    faces_from.add_argument("--image", nargs="+", type=user_path, metavar="FILE", help="cropped faces")
    faces_from.add_argument("--split", help="of the data set of the run, e.g. validation")
    parser.add_argument("--data_dir", type=user_path, help="where the raw data lie")
    parser.add_argument("--output", required=True, type=user_path, metavar="DIR", help="where the pictures go")
    parser.add_argument("--layer", nargs="+", default=(), metavar="NAME", help="whose activations are drawn")
    parser.add_argument("--cam_layer", metavar="NAME", help="for Grad-CAM; default: the last maps before the scores")
    parser.add_argument("--seed", type=int, default=0, help="of the dreams; default: 0")
    options = parser.parse_args(arguments)
    process.set_up()
    try:
        paths = _one(options) if len(options.workdir) == 1 else _several(options)
    except OSError as error:
        raise UserError(f"cannot write to {options.output}: {error.strerror or error}; choose another") from error
    for path in paths:
        print(path)


def _one(options: argparse.Namespace) -> list[Path]:
    (workdir,) = options.workdir
    net = recognizer.load(workdir)
    if options.image:
        faces = faces_of_files(net, options.image)
    elif not workdir.is_dir():
        raise UserError(f"{workdir} is no run directory, as --split wants one: for a weights file give --image instead")
    else:
        dataset = run_directory.dataset(workdir, options.data_dir)
        faces = Faces.of_images(net, *dataset.showing(options.split, net.emotions, most=MOST_FACES))
    options.output.mkdir(parents=True, exist_ok=True)
    if len(faces.images) < 3:
        print("no embedding.png: it wants at least three faces")
    layers = {"activation_layers": options.layer, "cam_layer": options.cam_layer}
    kept = sorted((workdir / "weights").glob("epoch-*.safetensors"))
    return visualize(net, faces, options.output, **layers, kept=kept, seed=options.seed)


def _several(options: argparse.Namespace) -> list[Path]:
    if options.image or options.layer or options.cam_layer:
        raise UserError("several --workdir are set side by side on a --split, without --image, --layer and --cam_layer")
    if len(set(options.workdir)) < len(options.workdir):
        raise UserError("a --workdir is named twice: name each once")
    options.output.mkdir(parents=True, exist_ok=True)
    where = {"data_dir": options.data_dir, "seed": options.seed}
    return visualize_several(options.workdir, options.split, options.output, **where)


if __name__ == "__main__":
    main()
