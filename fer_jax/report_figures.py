"""Figures of what a network looks at and has learnt, for the report and for `python -m fer_jax.visualize`.

Each function draws one matplotlib Figure; `explain` computes what is drawn. A face is explained for its own emotion
where that is known, else for the one that the network sees.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fer_jax import explain, heads, ops
from fer_jax.data import normalization
from fer_jax.data.emotions import remap
from fer_jax.errors import unknown
from fer_jax.recognizer import Recognizer, in_batches

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

    @classmethod
    def of_images(cls, net: Recognizer, images: np.ndarray, labels: np.ndarray, source: str) -> "Faces":
        """Those of images [n, H, W, 1 or 3] of any size on 0..255."""
        inputs = in_batches(jax.jit(net.to_input), images, _BATCH)
        return cls(inputs, labels, net.predict(inputs).probabilities, source)

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


def explanations(net: Recognizer, faces: Faces, *, cam_layer: str | None = None) -> Figure:
    """A face a row: guided backpropagation, Grad-CAM and occlusion.

    Args:
      cam_layer: of `explain.maps`, for Grad-CAM; None: as of `explain.grad_cam`.

    Raises:
      UserError: there is no such layer.
    """
    model, chosen = emotion_model(net), faces.shown()
    targets = faces.targets()[chosen]
    inputs = normalization.apply(jnp.asarray(faces.images[chosen]), net.variables["normalizer"])
    side = min(net.input_shape[:2])
    size = max(1, side // 6)
    options = {"size": size, "stride": max(1, size // 2)}
    guided = ops.jit(functools.partial(explain.guided_backprop, model))(net.variables, inputs, targets)
    cam = ops.jit(functools.partial(explain.grad_cam, model, layer=cam_layer))(net.variables, inputs, targets)
    falls = ops.jit(functools.partial(explain.occlusion, model, **options))(net.variables, inputs, targets)
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
        _show_heat(axes[2], face, np.asarray(cam[row]))
        _show(axes[3], 127 + 0.5 * (face - 127))
        fall = np.asarray(falls[row])
        most = max(float(np.abs(fall).max()), 1e-12)
        axes[3].imshow(fall, cmap="RdBu_r", vmin=-most, vmax=most, alpha=0.6, interpolation="bilinear")
    foot = (
        "guided backpropagation: grey is 0, brighter raises the logit    Grad-CAM: red speaks most for the emotion\n"
        "occlusion: red where hiding the face lowers the logit, blue where it raises it; each picture has its own scale"
    )
    return _footed(figure, foot)


def activations(net: Recognizer, faces: Faces, layers: Sequence[str] = ()) -> Figure:
    """The strongest maps of some layers for the first of the faces shown.

    Args:
      layers: names of `explain.maps`; none: some ReLUs from all over the net.

    Raises:
      UserError: there is no such layer.
    """
    model, first = emotion_model(net), faces.shown()[0]
    face, emotion = faces.images[first], net.emotions[faces.targets()[first]]
    inputs = normalization.apply(jnp.asarray(face[None]), net.variables["normalizer"])
    known = explain.maps(model, net.variables, inputs)
    for layer in layers:
        if layer not in known:
            raise unknown("layer with a map", layer, known)
    layers = layers or _spread(known)
    activate = ops.jit(lambda v, x: [explain.activations(model, v, x, layer=layer)[0] for layer in layers])
    maps = [np.asarray(value, np.float32) for value in activate(net.variables, inputs)]
    rows = []
    for name, value in zip(layers, maps, strict=True):
        strongest, (height, width, channels) = _strongest(value), value.shape
        text = f"{name}\n{height} x {width}\n{len(strongest)} strongest of\n{channels} channels"
        rows.append((text, value, strongest))
    return _draw_maps(rows, face, f"Activation maps of a face ({emotion}): {faces.source}")


def through_training(nets: Mapping[str, Recognizer], face: np.ndarray, layer: str | None = None) -> Figure:
    """The maps of one layer for a face as training went on: a row for each of the networks.

    Args:
      nets: by the names of their rows, the last trained the longest, whose strongest channels are shown.
      face: float32 [h, w, c] on 0..255.
      layer: a name of `explain.maps`; None: a ReLU in the middle of the net.

    Raises:
      UserError: there is no such layer.
    """
    last = list(nets.values())[-1]
    model = emotion_model(last)
    inputs = [normalization.apply(jnp.asarray(face[None]), net.variables["normalizer"]) for net in nets.values()]
    known = explain.maps(model, last.variables, inputs[-1])
    if layer and layer not in known:
        raise unknown("layer with a map", layer, known)
    some = _spread(known)
    layer = layer or some[len(some) // 2]
    activate = ops.jit(lambda v, x: explain.activations(model, v, x, layer=layer)[0])
    maps = [np.asarray(activate(n.variables, x), np.float32) for n, x in zip(nets.values(), inputs, strict=True)]
    rows = [(name, value, _strongest(maps[-1])) for name, value in zip(nets, maps, strict=True)]
    return _draw_maps(rows, face, f"The maps of {layer} through training")


def _strongest(value: np.ndarray) -> np.ndarray:
    """The channels of a map [h, w, C] with the largest mean magnitude, in their order."""
    return np.sort(np.argsort(-np.abs(value).mean((0, 1)), kind="stable")[:CHANNELS_SHOWN])


def _draw_maps(rows: Sequence[tuple[str, np.ndarray, np.ndarray]], face: np.ndarray, heading: str) -> Figure:
    """A row of maps for each (text, map [h, w, C], channels of it), and the face that they are of."""
    figure, grid = _grid(len(rows), CHANNELS_SHOWN + 1, heading, left=1.5)
    for axes in grid.flat:
        axes.axis("off")
    for line, (text, value, channels) in zip(grid, rows, strict=True):
        line[0].text(1, 0.5, text, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
        for axes, channel in zip(line[1:], channels, strict=False):
            axes.imshow(value[..., channel], cmap="magma", interpolation="nearest")
            axes.set_title(f"channel {channel}", fontsize=6.5, pad=2)
    # The face stands under no map: beside the first row's text there is no room, so it gets the first place.
    inset = grid[0, 0].inset_axes([-0.75, 0, 0.95, 0.95])
    _bare(inset)
    _show(inset, face)
    return _footed(figure, "dark: weak, bright: strong; each map has its own scale")


def filters(net: Recognizer) -> Figure:
    """The first convolution's filters.

    Raises:
      UserError: the network has no convolution.
    """
    kernels = explain.first_filters(emotion_model(net), net.variables, jnp.zeros((1, *net.input_shape)))
    height, width, channels, count = kernels.shape
    columns = min(12, int(np.ceil(np.sqrt(count * 1.6))))
    rows = -(-count // columns)
    most = max(float(np.abs(kernels).max()), 1e-12)
    heading = f"First layer: {count} filters {height}x{width} of {channels} channel{'s' if channels > 1 else ''}"
    # The scale of the colours stands at the right.
    figure, grid = _grid(rows, columns, heading, cell=0.8, left=1.1 if channels != 3 else 0.0)
    for axes in grid.flat[count:]:
        axes.axis("off")
    for number, axes in enumerate(grid.flat[:count]):
        if channels == 3:
            axes.imshow(0.5 + 0.5 * kernels[..., number] / most, interpolation="nearest")
        else:
            drawn = axes.imshow(kernels[..., 0, number], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    if channels == 3:
        return _footed(figure, "mid-grey is 0")
    figure.colorbar(drawn, ax=grid, shrink=0.8, aspect=30, pad=0.02).ax.tick_params(labelsize=7)
    return figure


def dreams(key: jax.Array, net: Recognizer, faces: Faces) -> Figure:
    """DeepDream of every emotion, from noise and from the first of the faces shown."""
    first = faces.shown()[0]
    noise_key, *dream_keys = jax.random.split(key, 3)
    begins = {"noise": _noise(noise_key, net), f"{net.emotions[faces.targets()[first]]} face": faces.images[first]}
    heading = "DeepDream: images changed to raise one emotion's logit"
    figure, grid = _grid(2, len(net.emotions) + 1, heading, cell=1.5)
    for axes, (name, begin), dream_key in zip(grid, begins.items(), dream_keys, strict=True):
        start, pixels, before, after = _dream(dream_key, net, begin)
        _show(axes[0], start)
        axes[0].set_title(f"from: {name}", fontsize=9)
        for axis, image, emotion, first_logit, last in zip(axes[1:], pixels, net.emotions, before, after, strict=True):
            _show(axis, image)
            axis.set_title(f"{emotion}\nlogit {first_logit:.1f} → {last:.1f}", fontsize=8)
    return figure


def _noise(key: jax.Array, net: Recognizer) -> np.ndarray:
    return np.asarray(127.5 + 8 * jax.random.normal(key, net.input_shape))


def _dream(key: jax.Array, net: Recognizer, begin: np.ndarray) -> tuple[np.ndarray, ...]:
    """An image changed for each of the emotions: (pixels before [H, W, c] and after [C, H, W, c], logits likewise [C]).

    The pixels before are `begin`, standardised where the network does that.
    """
    model, normalizer = emotion_model(net), net.variables["normalizer"]
    low, high = (normalization.of_levels(jnp.full((1, *net.input_shape), level), normalizer) for level in (0.0, 255.0))
    inputs = normalization.apply(jnp.broadcast_to(begin, (len(net.emotions), *net.input_shape)), normalizer)
    dreamt = ops.jit(functools.partial(explain.dream, model=model))(
        key,
        variables=net.variables,
        images=inputs,
        targets=jnp.arange(len(net.emotions)),
        # Steps of 1.5 grey levels, whatever the normalisation.
        step_size=1.5 * jnp.abs(jnp.asarray(normalizer["scale"])).mean(),
        low=low,
        high=high,
    )
    ask = ops.jit(lambda v, x: model.apply(v, x, train=False).astype(jnp.float32))
    start, pixels = (normalized / normalizer["scale"] + normalizer["mean"] for normalized in (inputs[0], dreamt))
    # Through the normaliser again: it makes another image of one that is not standardised any more.
    asked = (inputs, normalization.apply(pixels, normalizer))
    before, after = (np.diagonal(np.asarray(ask(net.variables, each))) for each in asked)
    return np.asarray(start), np.asarray(pixels), before, after


def embedding(net: Recognizer, faces: Faces) -> Figure:
    """The features before the last layer of at least three faces on their first two principal components."""
    model = emotion_model(net)
    ask = ops.jit(lambda v, x: explain.features(model, v, normalization.apply(x, v["normalizer"])))
    features = in_batches(functools.partial(ask, net.variables), faces.images, _BATCH)
    places, shares = map(np.asarray, explain.principal_components(jnp.asarray(features)))
    labels = faces.targets()
    figure = Figure(figsize=(7.2, 5.6), dpi=130, layout="constrained")
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
    axes.set_title(f"Features before the last layer, by {colours}\n{faces.source}", fontsize=10)
    axes.grid(alpha=0.2)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def across(
    key: jax.Array, nets: Mapping[str, Recognizer], images: np.ndarray, emotions: Sequence[str], source: str
) -> dict[str, Figure]:
    """What several networks see in the same faces: a row for each emotion, a column for each network.

    As Kaskun et al., figure 10 (guided backpropagation) and Alizadeh & Fazel, figures 9 to 11.

    Args:
      key: of the noise that dreams begin with; the same for all networks of one input.
      nets: name -> network; each knows all of the emotions.
      images: [n, H, W, 1 or 3] on 0..255, one face of each of the emotions.
      source: of the faces, for the titles.

    Returns:
      name of the method -> figure: guided_backpropagation, grad_cam and, from noise and without a face, dreams.
    """
    figures, grids = {}, {}
    noise_key, dream_key = jax.random.split(key)
    headings = {
        "guided_backpropagation": "Guided backpropagation: grey is 0, brighter raises the emotion's logit",
        "grad_cam": "Grad-CAM: red speaks most for the emotion",
        "dreams": "DeepDream from noise: what raises each emotion's logit",
    }
    for name, heading in headings.items():
        faced = name != "dreams"
        figures[name], grids[name] = _grid(len(emotions), len(nets) + faced, heading, cell=1.6, left=0.9)
        for axes, emotion, image in zip(grids[name], emotions, images, strict=True):
            axes[0].set_ylabel(emotion, rotation=0, ha="right", va="center", fontsize=9)
            if faced:
                _show(axes[0], image)
        if faced:
            grids[name][0, 0].set_title("face", fontsize=9)
        _footed(figures[name], f"{source}; each picture has its own scale" if faced else "")
    for column, (name, net) in enumerate(nets.items()):
        targets = remap(emotions, net.emotions)
        faces = Faces.of_images(net, images, targets, source)
        model = emotion_model(net)
        inputs = normalization.apply(jnp.asarray(faces.images), net.variables["normalizer"])
        guided = ops.jit(functools.partial(explain.guided_backprop, model))(net.variables, inputs, targets)
        cam = ops.jit(functools.partial(explain.grad_cam, model))(net.variables, inputs, targets)
        _, dreamt, _, _ = _dream(dream_key, net, _noise(noise_key, net))
        for row, target in enumerate(targets):
            seen = f"p = {faces.probabilities[row, target]:.2f}"
            title = f"{name}\n{seen}" if row == 0 else seen
            for method in ("guided_backpropagation", "grad_cam"):
                grids[method][row, column + 1].set_title(title, fontsize=8, pad=2)
            _show(grids["guided_backpropagation"][row, column + 1], _signed(np.asarray(guided[row])))
            _show_heat(grids["grad_cam"][row, column + 1], faces.images[row], np.asarray(cam[row]))
            _show(grids["dreams"][row, column], dreamt[target])
        grids["dreams"][0, column].set_title(name, fontsize=8)
    return figures


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


def _show_heat(axes: Axes, face: np.ndarray, heat: np.ndarray) -> None:
    """Shows heat [H, W], not negative, over a face; where there is none the face shows through."""
    _show(axes, face)
    strongest = max(float(heat.max()), 1e-12)
    veil = 0.65 * np.clip(heat / strongest, 0, 1) ** 0.7
    axes.imshow(heat, cmap="turbo", vmin=0, vmax=strongest, alpha=veil, interpolation="bilinear")


def _footed(figure: Figure, text: str) -> Figure:
    figure.supxlabel(text, fontsize=7.5, color="#555555")
    return figure


def _grid(rows: int, columns: int, heading: str, *, cell: float = 1.0, left: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure of bare axes [rows, columns], each `cell` inches wide, with a heading; `left` inches more for labels."""
    # Without pyplot: no global state, no display.
    width = max(cell * columns + left + 0.2, 0.085 * len(heading))
    figure = Figure(figsize=(width, (cell + 0.12) * rows + 0.9), dpi=130, layout="constrained")
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
