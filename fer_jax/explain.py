"""What a network looks at: guided backpropagation, Grad-CAM, occlusion, activations, DeepDream, embeddings.

The functions of a model take it as registered (models/), or anything with the same `apply`, and its variables; all but
`layers`, `maps` and `first_filters` may be jitted with the model and the options held fixed. No model is written a
second time: while one is traced, its submodules' calls are intercepted and `flax.linen.relu` is replaced, so that each
output of a layer or of a ReLU can be read, moved, or given another gradient.

Limits: only ReLUs called as `nn.relu` are seen (all registered models call them so). The replacement is one of the
process: while a model is being traced here, no other thread should trace one. `targets` are indices of logits.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from fer_jax.errors import UserError, unknown


@jax.custom_vjp
def guided_relu(x: jax.Array) -> jax.Array:
    """ReLU whose gradient flows back only where both the input and the gradient itself are positive.

    Springenberg et al. 2015, "Striving for Simplicity" (arXiv:1412.6806), section 3.4 and figure 1.
    """
    return jax.nn.relu(x)


def _guided_forward(x):
    return guided_relu(x), x > 0


def _guided_backward(positive, grad):
    return (jnp.where(positive, jnp.maximum(grad, 0), 0),)


guided_relu.defvjp(_guided_forward, _guided_backward)


@contextlib.contextmanager
def relu_replaced(relu: Callable[[jax.Array], jax.Array]) -> Iterator[None]:
    """`flax.linen.relu` is `relu` within the context, and what it was after it, however it is left.

    It acts when a function is traced: one that was jitted and called before keeps the ReLU of then.
    """
    original = nn.relu
    nn.relu = relu
    try:
        yield
    finally:
        nn.relu = original


def _apply(
    model,
    variables,
    images,
    tap=lambda _name, _given, value: value,
    relu=jax.nn.relu,
    before=lambda _name, given: given,
):
    """The logits, where tap(name, given, value) is put in the place of each layer's and each ReLU's output `value`.

    Before that, before(name, given) is put in the place of what a layer is given.
    """
    number = itertools.count()

    def tapped_relu(x):
        return tap(f"relu_{next(number)}", x, relu(x))

    def intercept(call, args, kwargs, context):
        path = context.module.path
        if not path or context.method_name != "__call__" or not args:
            return call(*args, **kwargs)
        name = "/".join(path)
        given = before(name, args[0])
        value = call(given, *args[1:], **kwargs)
        return tap(name, given, value) if isinstance(value, jax.Array) else value

    with relu_replaced(tapped_relu), nn.intercept_methods(intercept):
        return model.apply(variables, images, train=False)


def _target_logits(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits.astype(jnp.float32), jnp.asarray(targets)[:, None], 1)[:, 0]


def layers(model: nn.Module, variables: dict, images: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
    """The output of every layer and every ReLU for images [B, H, W, C], by name, in the order of the computation.

    A layer is named by its path, as its parameters are (`Conv_0`); a ReLU by its place (`relu_0`).
    """
    found = {}

    def tap(name, _given, value):
        found[name] = jax.ShapeDtypeStruct(value.shape, value.dtype)
        return value

    jax.eval_shape(lambda v, x: _apply(model, v, x, tap), variables, images)
    return found


def maps(model: nn.Module, variables: dict, images: jax.Array) -> dict[str, jax.ShapeDtypeStruct]:
    """Those of `layers` that are maps, [B, h, w, c] of more than one pixel.

    Raises:
      UserError: the model has none.
    """
    every = layers(model, variables, images)
    found = {name: value for name, value in every.items() if value.ndim == 4 and value.shape[1] * value.shape[2] > 1}
    if not found:
        raise UserError(f"no layer of {type(model).__name__} gives a map [B, h, w, c]; it has: {', '.join(every)}")
    return found


def guided_backprop(model: nn.Module, variables: dict, images: jax.Array, targets: jax.Array) -> jax.Array:
    """The gradient of one logit an image by the image, with `guided_relu` as every ReLU: float32 [B, H, W, C].

    Args:
      images: normalised, float [B, H, W, C].
      targets: int [B].
    """

    def score(images):
        return _target_logits(_apply(model, variables, images, relu=guided_relu), targets).sum()

    return jax.grad(score)(images)


def grad_cam(
    model: nn.Module, variables: dict, images: jax.Array, targets: jax.Array, *, layer: str | None = None
) -> jax.Array:
    """Where a layer's maps speak for one logit an image, up-sampled to the image: float32 [B, H, W], not negative.

    Selvaraju et al. 2017, "Grad-CAM" (arXiv:1610.02391), equations 1 and 2: the maps, weighted with the mean over
    the pixels of the logit's gradient by each map, summed, and cut at 0.

    Args:
      images: normalised, float [B, H, W, C].
      targets: int [B].
      layer: a name of `maps`. None: the last map; where that is the output of the net's last layer, each pixel's score,
        the map that this layer is given instead, since of scores below 0 Grad-CAM would be blank. In inception_v3,
        whose branches are joined last, it is the last branch alone.

    Raises:
      UserError: there is no such layer; lists those that there are.
    """
    known = maps(model, variables, images)
    at_input = False
    if layer is None:
        layer = list(known)[-1]
        last, given = _last_layer(model, variables, images)
        at_input = layer == last
    if layer not in known:
        raise unknown("layer with a map", layer, known)

    def score(moved):
        seen = {}

        def move(name, value):
            if name == layer:
                value = seen["map"] = value + moved
            return value

        if at_input:
            logits = _apply(model, variables, images, before=move)
        else:
            logits = _apply(model, variables, images, lambda name, _given, value: move(name, value))
        return _target_logits(logits, targets).sum(), seen["map"]

    shape = given if at_input else known[layer]
    gradient, at_layer = jax.grad(score, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
    weights = gradient.astype(jnp.float32).mean((1, 2), keepdims=True)
    heat = jax.nn.relu((weights * at_layer.astype(jnp.float32)).sum(-1))
    return jax.image.resize(heat, images.shape[:3], "bilinear")


def occlusion(
    model: nn.Module,
    variables: dict,
    images: jax.Array,
    targets: jax.Array,
    *,
    size: int,
    stride: int,
    batch_size: int = 256,
) -> jax.Array:
    """By how much one logit an image falls when a square is hidden: float32 [B, H, W], negative where it rises.

    Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks" (arXiv:1311.2901), section 4.2. Each
    pixel has the mean over the squares that cover it. A square is filled with the image's mean colour.

    Args:
      images: normalised, float [B, H, W, C].
      targets: int [B].
      size: side of the square in pixels.
      stride: pixels between squares, at most `size`; the last ones lie at the border.
      batch_size: about how many hidden images are seen at once.

    Raises:
      UserError: the square does not fit, or squares would leave pixels out.
    """
    count, height, width, _ = images.shape
    if not 0 < stride <= size <= min(height, width):
        raise UserError(
            f"occlusion with size={size} and stride={stride} on {height}x{width} pixels: use 0 < stride <= size and a "
            "square that fits into the image"
        )
    rows, columns = (_hidden(side, size, stride) for side in (height, width))
    places = np.stack(np.meshgrid(np.arange(len(rows)), np.arange(len(columns)), indexing="ij"), -1).reshape(-1, 2)
    at_once = max(1, batch_size // count)
    filled = np.concatenate([places, np.repeat(places[-1:], -len(places) % at_once, 0)])
    mean = images.mean((1, 2), keepdims=True)
    row_hidden, column_hidden = jnp.asarray(rows), jnp.asarray(columns)

    def logits_of(some):  # [at_once, 2] -> [at_once, B]
        hidden = row_hidden[some[:, 0]][:, :, None] & column_hidden[some[:, 1]][:, None, :]
        occluded = jnp.where(hidden[:, None, :, :, None], mean, images).reshape(-1, *images.shape[1:])
        logits = model.apply(variables, occluded, train=False)
        return _target_logits(logits, jnp.tile(jnp.asarray(targets), at_once)).reshape(at_once, count)

    occluded = jax.lax.map(logits_of, jnp.asarray(filled.reshape(-1, at_once, 2))).reshape(-1, count)[: len(places)]
    whole = _target_logits(model.apply(variables, images, train=False), targets)
    drops = (whole - occluded).T.reshape(count, len(rows), len(columns))
    hidden = rows.astype(np.float32), columns.astype(np.float32)
    total = jnp.einsum("bij,ih,jw->bhw", drops, *hidden, precision="highest")
    return total / (rows.sum(0)[:, None] * columns.sum(0)[None, :])


def _hidden(side: int, size: int, stride: int) -> np.ndarray:
    """Which pixels of a side are hidden at each start of the square: bool [starts, side]."""
    starts = sorted({*range(0, side - size + 1, stride), side - size})
    pixels = np.arange(side)
    return np.array([(pixels >= start) & (pixels < start + size) for start in starts])


def activations(model: nn.Module, variables: dict, images: jax.Array, *, layer: str) -> jax.Array:
    """The output of a layer or ReLU named as in `layers`, for normalised images [B, H, W, C]: [B, ...].

    Raises:
      UserError: there is no such layer; lists those that there are.
    """
    found = {}

    def tap(name, _given, value):
        found[name] = value
        return value

    _apply(model, variables, images, tap)
    if layer not in found:
        raise unknown("layer", layer, found)
    return found[layer]


def first_filters(model: nn.Module, variables: dict, images: jax.Array) -> np.ndarray:
    """The kernel of the first convolution: float32 [KH, KW, C, F]; images [B, H, W, C] only give the shape.

    Raises:
      UserError: the model has no convolution.
    """
    for name in layers(model, variables, images):
        own = _parameters(variables, name)
        if getattr(own.get("kernel"), "ndim", 0) == 4:
            return np.asarray(own["kernel"], np.float32)
    raise UserError(f"{type(model).__name__} has no convolution whose filters could be shown")


def _parameters(variables: dict, name: str) -> dict:
    """The parameters of a layer itself, without those of layers in it."""
    inner = variables["params"]
    for part in name.split("/"):
        inner = inner.get(part, {})
    return {key: value for key, value in inner.items() if not isinstance(value, dict)}


def dream(
    key: jax.Array,
    model: nn.Module,
    variables: dict,
    images: jax.Array,
    targets: jax.Array,
    *,
    octaves: int = 4,
    octave_scale: float = 1.5,
    steps: int = 40,
    step_size: float = 0.02,
    jitter: int = 4,
    low: jax.Array | float = -jnp.inf,
    high: jax.Array | float = jnp.inf,
) -> jax.Array:
    """Images changed by gradient ascent on one logit each: float32 [B, H, W, C].

    DeepDream (Mordvintsev et al. 2015, "Inceptionism"), with its octaves, its jitter and its steps by the gradient
    over its mean size. Since affine layers want one input size, an octave is here the resolution of what is added,
    coarse first, and not that of the image.

    Args:
      key: of the jitter.
      images: where to begin; normalised, float [B, H, W, C].
      targets: int [B].
      octaves: resolutions, the finest that of the image.
      octave_scale: ratio of one resolution to the next coarser one.
      steps: of each octave.
      step_size: mean change of a pixel in a step, in normalised units.
      jitter: most pixels by which the image is rolled before a step.
      low: of the normalised values, broadcastable to the images.
      high: likewise.
    """
    height, width = images.shape[1:3]

    def score(detail, images, shift):
        whole = jnp.clip(images + jax.image.resize(detail, images.shape, "bilinear"), low, high)
        return _target_logits(model.apply(variables, jnp.roll(whole, shift, (1, 2)), train=False), targets).sum()

    def step(detail, key, images):
        gradient = jax.grad(score)(detail, images, jax.random.randint(key, (2,), -jitter, jitter + 1))
        size = jnp.abs(gradient).mean((1, 2, 3), keepdims=True)
        return detail + step_size * gradient / (size + 1e-12), None

    images = images.astype(jnp.float32)
    for number, octave_key in enumerate(jax.random.split(key, octaves)):
        shrink = octave_scale ** (octaves - 1 - number)
        sides = (max(1, round(height / shrink)), max(1, round(width / shrink)))
        detail = jnp.zeros((images.shape[0], *sides, images.shape[3]))
        keys = jax.random.split(octave_key, steps)
        detail, _ = jax.lax.scan(lambda detail, key, images=images: step(detail, key, images), detail, keys)
        images = jnp.clip(images + jax.image.resize(detail, images.shape, "bilinear"), low, high)
    return images


def features(model: nn.Module, variables: dict, images: jax.Array) -> jax.Array:
    """What the last layer with parameters is given for normalised images [B, H, W, C]: float32 [B, F].

    Maps (where the last layer is a convolution) are averaged over their pixels.
    """
    last, _ = _last_layer(model, variables, images)
    found = {}

    def tap(name, given, value):
        if name == last:
            found[name] = given.astype(jnp.float32)
        return value

    _apply(model, variables, images, tap)
    return found[last].mean((1, 2)) if found[last].ndim == 4 else found[last]


def _last_layer(model, variables, images) -> tuple[str, jax.ShapeDtypeStruct]:
    """The last layer with parameters, and what that is given."""
    given_to = {}

    def tap(name, given, value):
        if _parameters(variables, name):
            given_to[name] = jax.ShapeDtypeStruct(given.shape, given.dtype)
        return value

    jax.eval_shape(lambda v, x: _apply(model, v, x, tap), variables, images)
    return list(given_to.items())[-1]


def principal_components(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first two principal components of features [n, F], n and F at least 2: ([n, 2], shares of variance [2]).

    By SVD. Each component's sign is that which makes its largest loading positive, so that it is no matter of chance.
    """
    centred = features - features.mean(0)
    scores, singular, loadings = jnp.linalg.svd(centred, full_matrices=False)
    largest = jnp.take_along_axis(loadings, jnp.abs(loadings).argmax(1)[:, None], 1)[:, 0]
    signs = jnp.where(largest[:2] < 0, -1, 1)
    variances = singular**2
    return scores[:, :2] * singular[:2] * signs, variances[:2] / jnp.maximum(variances.sum(), 1e-30)
