"""Pictures of what a trained network looks at and has learnt.

    python -m fer_jax.visualize --workdir=RUN --split=validation --output=DIR [--data_dir=PATH]
    python -m fer_jax.visualize --workdir=RUN --image=FACE.png... --output=DIR

explanations.png  a face a row: guided backpropagation, Grad-CAM and occlusion
activations.png   the maps of some layers for the first face
filters.png       the first convolution's filters
dreams.png        DeepDream of every emotion, from noise and from the first face
embedding.png     the features before the last layer on their first two principal components

Of a split each emotion is shown by the face that the network is surest of, and explained for that emotion; image
files, which should show one cropped face each, are explained for the emotion that the network sees.
"""

import argparse
import dataclasses
import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fer_jax import explain, heads, recognizer
from fer_jax.data import normalization, prepare
from fer_jax.errors import UserError, unknown
from fer_jax.imaging import to_input
from fer_jax.recognizer import Recognizer

MOST_FACES = 1000  # of a split that are looked at
CHANNELS_SHOWN = 8
LAYERS_SHOWN = 5
_BATCH = 256
# Dark and light, so that neighbours differ without colour vision too (Okabe & Ito 2008, and a grey).
_COLOURS = ("#d55e00", "#009e73", "#7d3c98", "#e69f00", "#0072b2", "#cc79a7", "#6b7078", "#56b4e9")


@dataclasses.dataclass(frozen=True)
class Faces:
    """Faces as the network gets them, before normalisation."""

    images: np.ndarray  # float32 [n, h, w, c] on 0..255
    labels: np.ndarray  # int [n], indices of the network's emotions; -1: not known
    probabilities: np.ndarray  # float32 [n, C]
    source: str  # for the titles

    def shown(self) -> np.ndarray:
        """The faces that get a row: of labelled ones the surest of each emotion, of others all."""
        if (self.labels < 0).any():
            return np.arange(len(self.images))
        members = (np.flatnonzero(self.labels == label) for label in np.unique(self.labels))
        return np.array([some[self.probabilities[some, self.labels[some[0]]].argmax()] for some in members])

    def targets(self) -> np.ndarray:
        """The emotion that each face is explained for: its own, or the one that the network sees: int [n]."""
        return np.where(self.labels >= 0, self.labels, self.probabilities.argmax(1))


@dataclasses.dataclass(frozen=True)
class _EmotionLogits:
    """A model of intensities, with a logit for neutral as well: the reverse of the strongest emotion's."""

    model: nn.Module
    emotions: tuple[str, ...]

    def apply(self, variables: dict, images: jax.Array, *, train: bool) -> jax.Array:
        logits = self.model.apply(variables, images, train=train)
        return heads.complete(logits, self.emotions, lambda shown: -shown.max(-1))


def emotion_model(net: Recognizer) -> nn.Module | _EmotionLogits:
    """The network's model as explain.py wants it, with one logit for each of its emotions, in their order."""
    if net.head.num_outputs == len(net.emotions):
        return net.model
    return _EmotionLogits(net.model, net.emotions)


def faces_of_split(net: Recognizer, workdir: Path, split: str, data_dir: Path | None) -> Faces:
    """Faces from all over a split of the data set that the run was trained on.

    Raises:
      UserError: no such run, data set or split, or none of its emotions is known to the network.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"there is no {path}: --split wants a run directory; for a weights file give --image instead")
    config = json.loads(path.read_text())["data"]
    dataset = prepare.load(config["name"], variant=config["variant"] or None, data_dir=data_dir)
    arrays = dataset.arrays(split)
    # A data set's order of emotions need not be the network's.
    places = np.array([net.emotions.index(name) if name in net.emotions else -1 for name in dataset.emotions])
    labels = places[arrays["label"]]
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise UserError(f"{dataset.name}, {split} split: no face shows one of {', '.join(net.emotions)}")
    some = known[np.linspace(0, len(known) - 1, min(MOST_FACES, len(known))).astype(int)]
    images = np.concatenate(
        [
            np.asarray(to_input(jnp.asarray(arrays["image"][some[start : start + _BATCH]]), net.input_shape))
            for start in range(0, len(some), _BATCH)
        ]
    )
    source = f"{dataset.name}, {split} split" + (" (SYNTHETIC faces)" if dataset.synthetic else "")
    return Faces(images, labels[some], net.predict(images).probabilities, source)


def faces_of_files(net: Recognizer, paths: Sequence[Path]) -> Faces:
    """Image files, each resized to the network's input.

    Raises:
      UserError: one cannot be read.
    """
    images = []
    for path in paths:
        data = path.read_bytes() if path.is_file() else b""
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if image is None:
            raise UserError(f"{path} cannot be read as an image: give PNG or JPEG files of one cropped face each")
        images.append(to_input(jnp.asarray(image[None, ..., ::-1]), net.input_shape)[0])
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
    seed: int = 0,
) -> list[Path]:
    """Draws every picture that the module's head names into `output`, which must exist; returns their paths.

    Args:
      activation_layers: names of `explain.maps`; none: some ReLUs from all over the net.
      cam_layer: for Grad-CAM; None: the last map.
      seed: of the dreams.
    """
    model = emotion_model(net)
    chosen = faces.shown()
    images, targets = jnp.asarray(faces.images[chosen]), faces.targets()[chosen]
    inputs = normalization.apply(images, net.variables["normalizer"])
    known = explain.maps(model, net.variables, inputs[:1])
    for layer in activation_layers:
        if layer not in known:
            raise unknown("layer with a map", layer, known)
    paths = [output / f"{name}.png" for name in ("explanations", "activations", "filters", "dreams")]

    _draw_explanations(net, model, faces, chosen, inputs, targets, paths[0], cam_layer=cam_layer)
    layers = activation_layers or _spread(known)
    activate = jax.jit(lambda v, x: {layer: explain.activations(model, v, x, layer=layer) for layer in layers})
    maps = {name: np.asarray(value[0], np.float32) for name, value in activate(net.variables, inputs[:1]).items()}
    _draw_activations(faces.images[chosen[0]], maps, net.emotions[targets[0]], faces.source, paths[1])
    _draw_filters(explain.first_filters(model, net.variables, inputs[:1]), paths[2])
    _draw_dreams(jax.random.key(seed), net, model, faces.images[chosen[0]], net.emotions[targets[0]], paths[3])
    if len(faces.images) >= 3:
        paths.append(output / "embedding.png")
        _draw_embedding(net, model, faces, paths[-1])
    return paths


def _draw_explanations(net, model, faces, chosen, inputs, targets, path, *, cam_layer):
    side = min(net.input_shape[:2])
    size = max(1, side // 6)
    options = {"size": size, "stride": max(1, size // 2)}
    guided = jax.jit(functools.partial(explain.guided_backprop, model))(net.variables, inputs, targets)
    cam = jax.jit(functools.partial(explain.grad_cam, model, layer=cam_layer))(net.variables, inputs, targets)
    falls = jax.jit(functools.partial(explain.occlusion, model, **options))(net.variables, inputs, targets)
    titles = ("face", "guided backpropagation", "Grad-CAM", f"occlusion by {size}x{size} pixels")
    heading = f"What speaks for the emotion at the left: {faces.source}"
    figure, grid = _grid(len(chosen), len(titles), heading, cell=1.75, left=1.2)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    for row, (axes, face, target) in enumerate(zip(grid, faces.images[chosen], targets, strict=True)):
        seen = faces.probabilities[chosen[row]]
        label = f"{net.emotions[target]}\np = {seen[target]:.2f}"
        if seen.argmax() != target:
            label += f"\n(seen as {net.emotions[seen.argmax()]},\np = {seen.max():.2f})"
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        _show(axes[0], face)
        _show(axes[1], _signed(np.asarray(guided[row])))
        _show(axes[2], face)
        heat = np.asarray(cam[row])
        strongest = max(float(heat.max()), 1e-12)
        # Where there is no heat the face shows through.
        veil = 0.65 * np.clip(heat / strongest, 0, 1) ** 0.7
        axes[2].imshow(heat, cmap="turbo", vmin=0, vmax=strongest, alpha=veil, interpolation="bilinear")
        _show(axes[3], 127 + 0.5 * (face - 127))
        fall = np.asarray(falls[row])
        most = max(float(np.abs(fall).max()), 1e-12)
        axes[3].imshow(fall, cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.6, interpolation="bilinear")
    foot = (
        "guided backpropagation: grey is 0, brighter raises the logit    Grad-CAM: red speaks most for the emotion\n"
        "occlusion: red where hiding the face lowers the logit, blue where it raises it; each picture has its own scale"
    )
    figure.supxlabel(foot, fontsize=7.5, color="#555555")
    figure.savefig(path)


def _draw_activations(face, maps, emotion, source, path):
    figure, grid = _grid(len(maps), CHANNELS_SHOWN + 1, f"Activation maps of a face ({emotion}): {source}", left=1.5)
    for axes in grid.flat:
        axes.axis("off")
    for row, (name, value) in zip(grid, maps.items(), strict=True):
        height, width, channels = value.shape
        strongest = np.argsort(-np.abs(value).mean((0, 1)), kind="stable")[:CHANNELS_SHOWN]
        for axes, channel in zip(row[1:], np.sort(strongest), strict=False):
            axes.imshow(value[..., channel], cmap="magma", interpolation="nearest")
            axes.set_title(f"channel {channel}", fontsize=6.5, pad=2)
        text = f"{name}\n{height} x {width}\n{len(strongest)} strongest of\n{channels} channels"
        row[0].text(1, 0.5, text, transform=row[0].transAxes, ha="right", va="center", fontsize=8)
    # The face stands under no map: beside the first layer's text there is no room, so it gets the first place.
    inset = grid[0, 0].inset_axes([-0.75, 0, 0.95, 0.95])
    _bare(inset)
    _show(inset, face)
    figure.supxlabel("dark: weak, bright: strong; each map has its own scale", fontsize=7.5, color="#555555")
    figure.savefig(path)


def _draw_filters(kernels, path):
    height, width, channels, count = kernels.shape
    columns = min(12, int(np.ceil(np.sqrt(count * 1.6))))
    rows = -(-count // columns)
    most = max(float(np.abs(kernels).max()), 1e-12)
    heading = f"First layer: {count} filters {height}x{width} of {channels} channel{'s' if channels > 1 else ''}"
    figure, grid = _grid(rows, columns, heading, cell=0.8)
    for axes in grid.flat[count:]:
        axes.axis("off")
    for number, axes in enumerate(grid.flat[:count]):
        if channels == 3:
            axes.imshow(0.5 + 0.5 * kernels[..., number] / most, interpolation="nearest")
        else:
            drawn = axes.imshow(kernels[..., 0, number], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    if channels == 3:
        figure.supxlabel("mid-grey is 0", fontsize=7.5, color="#555555")
    else:
        figure.colorbar(drawn, ax=grid, shrink=0.8, aspect=30, pad=0.02).ax.tick_params(labelsize=7)
    figure.savefig(path)


def _draw_dreams(key, net, model, face, emotion, path):
    normalizer = net.variables["normalizer"]
    count = len(net.emotions)
    noise_key, *dream_keys = jax.random.split(key, 3)
    noise = 127.5 + 8 * jax.random.normal(noise_key, face.shape)
    low, high = (normalization.apply(jnp.full((1, *net.input_shape), level), normalizer) for level in (0.0, 255.0))
    # Steps of 1.5 grey levels, whatever the normalisation.
    step_size = 1.5 * jnp.abs(jnp.asarray(normalizer["scale"])).mean()
    make = jax.jit(functools.partial(explain.dream, model=model))
    ask = jax.jit(lambda v, x: model.apply(v, x, train=False).astype(jnp.float32))
    grid_rows = []
    for begin, dream_key in zip((noise, jnp.asarray(face)), dream_keys, strict=True):
        inputs = normalization.apply(jnp.broadcast_to(begin, (count, *net.input_shape)), normalizer)
        dreamt = make(
            dream_key,
            variables=net.variables,
            images=inputs,
            targets=jnp.arange(count),
            step_size=step_size,
            low=low,
            high=high,
        )
        before, after = (np.diagonal(np.asarray(ask(net.variables, x))) for x in (inputs, dreamt))
        pixels = np.asarray(dreamt / normalizer["scale"] + normalizer["mean"])
        grid_rows.append((np.asarray(begin), pixels, before, after))
    heading = "DeepDream: images changed to raise one emotion's logit"
    figure, grid = _grid(2, count + 1, heading, cell=1.5)
    for axes, (begin, pixels, before, after), name in zip(grid, grid_rows, ("noise", f"{emotion} face"), strict=True):
        _show(axes[0], begin)
        axes[0].set_title(f"from: {name}", fontsize=9)
        for axis, image, emotion_name, first, last in zip(axes[1:], pixels, net.emotions, before, after, strict=True):
            _show(axis, image)
            axis.set_title(f"{emotion_name}\nlogit {first:.1f} → {last:.1f}", fontsize=8)
    figure.savefig(path)


def _draw_embedding(net, model, faces, path):
    ask = jax.jit(lambda v, x: explain.features(model, v, normalization.apply(x, v["normalizer"])))
    features = _in_batches(functools.partial(ask, net.variables), faces.images)
    places, shares = map(np.asarray, explain.principal_components(jnp.asarray(features)))
    labels = faces.targets()
    figure = Figure(figsize=(7.2, 5.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, emotion in enumerate(net.emotions):
        some = labels == label
        if some.any():
            colour = _COLOURS[label % len(_COLOURS)]
            name = f"{emotion} ({some.sum():,})"
            axes.scatter(*places[some].T, s=14, color=colour, alpha=0.7, linewidths=0, label=name)
            middle = np.median(places[some], 0)
            frame = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
            axes.annotate(emotion, middle, ha="center", va="center", fontsize=9, color=colour, bbox=frame)
    axes.set_xlabel(f"first principal component ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second principal component ({shares[1]:.0%})")
    colours = "true emotion" if (faces.labels >= 0).all() else "emotion seen"
    axes.set_title(f"Features before the last layer, by {colours}: {faces.source}", fontsize=10)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def _in_batches(function: Callable, images: np.ndarray) -> np.ndarray:
    """function(images) of all the images, compiled for one batch size."""
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        padded = np.pad(batch, ((0, min(_BATCH, len(images)) - len(batch)), (0, 0), (0, 0), (0, 0)))
        parts.append(np.asarray(function(padded))[: len(batch)])
    return np.concatenate(parts)


def _spread(known: dict[str, jax.ShapeDtypeStruct]) -> list[str]:
    """Some ReLUs from all over the net, or any layers where it has none."""
    names = [name for name in known if name.startswith("relu_")] or list(known)
    return [names[i] for i in np.unique(np.linspace(0, len(names) - 1, LAYERS_SHOWN).round().astype(int))]


def _signed(gradient: np.ndarray) -> np.ndarray:
    """A gradient [H, W, C] as an image on 0..255 with 0 at mid-grey; the largest hundredth is cut."""
    most = max(float(np.quantile(np.abs(gradient), 0.99)), 1e-12)
    return 127.5 * (1 + np.clip(gradient / most, -1, 1))


def _show(axes: Axes, image: np.ndarray) -> None:
    """Shows an image [H, W, 1 or 3] on 0..255."""
    whole = np.broadcast_to(image, (*image.shape[:2], 3))
    axes.imshow(np.clip(whole, 0, 255).astype(np.uint8), interpolation="nearest")


def _grid(rows: int, columns: int, heading: str, *, cell: float = 1.0, left: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure of bare axes [rows, columns], each `cell` inches wide, with a heading; `left` inches more for labels."""
    # Without pyplot: no global state, no display.
    width = max(cell * columns + left + 0.2, 0.085 * len(heading))
    figure = Figure(figsize=(width, (cell + 0.12) * rows + 0.9), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    figure.suptitle(heading, fontsize=10)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        _bare(axes)
    return figure, grid


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    head, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m fer_jax.visualize",
        description=head,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, type=Path, help="a run directory, or its weights.safetensors")
    faces_from = parser.add_mutually_exclusive_group(required=True)
    faces_from.add_argument("--image", nargs="+", type=Path, metavar="FILE", help="cropped faces")
    faces_from.add_argument("--split", help="of the data set of the run, e.g. validation")
    parser.add_argument("--data_dir", type=Path, help="where the raw data lie")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the pictures go")
    parser.add_argument("--layer", nargs="+", default=(), metavar="NAME", help="whose activations are drawn")
    parser.add_argument("--cam_layer", metavar="NAME", help="for Grad-CAM; default: the last that gives maps")
    parser.add_argument("--seed", type=int, default=0, help="of the dreams; default: 0")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        net = recognizer.load(options.workdir)
        if options.image:
            faces = faces_of_files(net, options.image)
        else:
            faces = faces_of_split(net, options.workdir, options.split, options.data_dir)
        try:
            options.output.mkdir(parents=True, exist_ok=True)
            paths = visualize(
                net,
                faces,
                options.output,
                activation_layers=options.layer,
                cam_layer=options.cam_layer,
                seed=options.seed,
            )
        except OSError as error:
            raise UserError(f"cannot write to {options.output}: {error.strerror or error}; choose another") from error
        for path in paths:
            print(path)
        if len(faces.images) < 3:
            print("no embedding.png: it wants at least three faces")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
