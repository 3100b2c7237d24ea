"""Augmentation on the device, inside the training step.

Every operation is `f(key, image, *, ...)` on one image: uint8 or float [H, W, C] on 0..255 in, float32 on 0..255
out, jit- and vmap-able, each strength a number that may be traced. Strength 0 is the identity, bit for bit.
`mix` (mixup, CutMix) works on a batch, because it needs other images.

    python -m fer_jax.augment --config=configs/vggs_small.py --preview=sheet.png

draws what a model really sees.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from ml_collections import ConfigDict

from fer_jax import imaging

Number = jax.Array | float

LEVELS = 7  # of brightness in `variants` (Xu et al., "Data Augmentation")
BLURS: tuple[Callable, ...] = (lambda image: image, imaging.gaussian_blur, imaging.average_blur, imaging.median_blur)
VARIANTS = LEVELS * len(BLURS)  # 28


def flip(key: jax.Array, image: jax.Array, *, probability: Number) -> jax.Array:
    """Mirrors left and right with the given probability."""
    return imaging.sample_affine(jnp.asarray(image, jnp.float32), _mirroring(key, image.shape, probability))


def shift(key: jax.Array, image: jax.Array, *, fraction: Number) -> jax.Array:
    """Moves by whole pixels, at most `fraction` of each side, borders replicated: a random crop after padding."""
    return imaging.sample_affine(jnp.asarray(image, jnp.float32), _shifting(key, image.shape, fraction))


def rotate(key: jax.Array, image: jax.Array, *, degrees: Number) -> jax.Array:
    """Turns about the centre by an angle from -degrees .. degrees, bilinear, borders replicated."""
    return imaging.sample_affine(jnp.asarray(image, jnp.float32), _rotation(key, image.shape, degrees))


def scale(key: jax.Array, image: jax.Array, *, fraction: Number) -> jax.Array:
    """Enlarges about the centre by a factor from 1 - fraction .. 1 + fraction, bilinear, borders replicated."""
    return imaging.sample_affine(jnp.asarray(image, jnp.float32), _scaling(key, image.shape, fraction))


def crop(key: jax.Array, image: jax.Array, *, fraction: Number) -> jax.Array:
    """Cuts out a part whose sides are 1 - fraction .. 1 of the whole's, anywhere, and enlarges it to the whole."""
    return imaging.sample_affine(jnp.asarray(image, jnp.float32), _cropping(key, image.shape, fraction))


# Each of these as the matrix [2, 3] that takes a place in the result to one in the image, from their centres.


def _mirroring(key, _shape, probability):
    sign = jnp.where(jax.random.uniform(key) < probability, -1.0, 1.0)
    return jnp.array([[sign, 0, 0], [0, 1, 0]])


def _shifting(key, shape, fraction):
    limit = jnp.floor(fraction * jnp.array(shape[:2]))
    down, across = jnp.floor(jax.random.uniform(key, (2,)) * (2 * limit + 1) - limit)
    return jnp.array([[1, 0, across], [0, 1, down]])


def _rotation(key, _shape, degrees):
    angle = jnp.radians(degrees) * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, sin, 0], [-sin, cos, 0]])


def _scaling(key, _shape, fraction):
    factor = 1 + fraction * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    return jnp.eye(2, 3) / factor


def _cropping(key, shape, fraction):
    size_key, place_key = jax.random.split(key)
    rest = fraction * jax.random.uniform(size_key)  # what is cut off, a share of each side
    sides = jnp.array([shape[1], shape[0]])
    place = rest * sides * jax.random.uniform(place_key, (2,), minval=-0.5, maxval=0.5)
    return jnp.concatenate([jnp.eye(2) * (1 - rest), place[:, None]], 1)


def _compose(first, second):
    """The matrix of `first` followed by `second`."""
    linear = jnp.matmul(first[:, :2], second, precision="highest")
    return linear + jnp.pad(first[:, 2:], ((0, 0), (2, 0)))


def brightness(key: jax.Array, image: jax.Array, *, strength: Number) -> jax.Array:
    """Multiplies by a factor from 1 - strength .. 1 + strength, clipped to 0..255."""
    image = jnp.asarray(image, jnp.float32)
    factor = 1 + strength * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    return jnp.clip(image * factor, 0, 255)


def contrast(key: jax.Array, image: jax.Array, *, strength: Number) -> jax.Array:
    """Multiplies the difference from the image's mean by a factor from 1 - strength .. 1 + strength, clipped."""
    image = jnp.asarray(image, jnp.float32)
    factor = 1 + strength * jax.random.uniform(key, minval=-1.0, maxval=1.0)
    mean = image.mean()
    return jnp.where(factor == 1, image, jnp.clip((image - mean) * factor + mean, 0, 255))


def gamma(key: jax.Array, image: jax.Array, *, strength: Number) -> jax.Array:
    """Raises x / 255 to the power 2**u, u from -strength .. strength: shadows and lights apart."""
    image = jnp.asarray(image, jnp.float32)
    power = 2 ** (strength * jax.random.uniform(key, minval=-1.0, maxval=1.0))
    raised = jnp.exp(power * jnp.log(image / 255))  # XLA's own power is several times slower on a CPU
    return jnp.where(power == 1, image, 255 * raised)


def noise(key: jax.Array, image: jax.Array, *, deviation: Number) -> jax.Array:
    """Adds Gaussian noise of the given deviation, in grey levels, to each value, clipped to 0..255.

    A draw is the sum of eight random bytes, whose distribution function is within 0.005 of the normal one.
    """
    image = jnp.asarray(image, jnp.float32)
    words = [_bits(word_key, image.shape) for word_key in jax.random.split(key)]
    total = sum((word >> shift) & 255 for word in words for shift in (0, 8, 16, 24)).astype(jnp.float32)
    drawn = (total - 8 * 127.5) / (8 * (256**2 - 1) / 12) ** 0.5
    return jnp.clip(image + deviation * drawn, 0, 255)


def blur(key: jax.Array, image: jax.Array, *, probability: Number) -> jax.Array:
    """With the given probability one of the three blurs of Xu et al., 3x3: Gaussian, average or median."""
    image = jnp.asarray(image, jnp.float32)
    chosen = jnp.ceil((len(BLURS) - 1) * (1 - jax.random.uniform(key) / jnp.maximum(probability, 1e-9)))
    return _select(image, jnp.clip(chosen, 0).astype(jnp.int32))


def erase(key: jax.Array, image: jax.Array, *, area: Number) -> jax.Array:
    """Fills a rectangle of up to `area` of the image with noise (Zhong et al. 2020, "Random Erasing", algorithm 1)."""
    image = jnp.asarray(image, jnp.float32)
    size_key, ratio_key, place_key, fill_key = jax.random.split(key, 4)
    aspect = jnp.exp(jax.random.uniform(ratio_key, minval=-1.0, maxval=1.0) * jnp.log(3.0))  # 1/3 .. 3
    share = area * jax.random.uniform(size_key)
    inside = _rectangle(place_key, image.shape[:2], jnp.sqrt(share * aspect), jnp.sqrt(share / aspect))
    fill = (_bits(fill_key, image.shape) >> 8).astype(jnp.float32) * (255 / 2**24)
    return jnp.where(inside[..., None], fill, image)


def variant(key: jax.Array, image: jax.Array, *, strength: Number) -> jax.Array:
    """One of the 28 `variants`, each as likely as the others; the image itself where the strength is 0."""
    image = jnp.asarray(image, jnp.float32)
    level, chosen = jnp.divmod(jax.random.randint(key, (), 0, VARIANTS), len(BLURS))
    factor = 1 + strength * (level - LEVELS // 2) / (LEVELS // 2)
    return jnp.where(strength == 0, image, jnp.clip(_select(image, chosen) * factor, 0, 255))


def variants(image: jax.Array, *, strength: Number) -> jax.Array:
    """All 28 of Xu et al.: seven levels of brightness, 1 - strength .. 1 + strength, by no blur and three blurs.

    Returns:
      float32 [28, H, W, C]: for each level, dark to light, the image as it is, Gaussian, average, median blurred. The
      paper gives neither levels nor kernels: they are even steps, and 3x3.
    """
    blurred = jnp.stack([operation(jnp.asarray(image, jnp.float32)) for operation in BLURS])
    factors = 1 + strength * jnp.linspace(-1, 1, LEVELS)
    return jnp.clip(factors[:, None, None, None, None] * blurred, 0, 255).reshape(-1, *image.shape)


def _bits(key, shape):
    """Random words uint32 [H, W, C]: places mixed with two words of the key, much faster than the same of threefry.

    The mixer is lowbias32 (Wellons 2018, nullprogram.com/blog/2018/07/31), which changes each bit of the result with
    a probability near 1/2 when one of the place changes.
    """

    def mix(word):
        word = (word ^ (word >> 16)) * jnp.uint32(0x7FEB352D)
        word = (word ^ (word >> 15)) * jnp.uint32(0x846CA68B)
        return word ^ (word >> 16)

    first, second = jax.random.bits(key, (2,))
    place = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape[0], -1)  # as rows: fast on vector lanes
    return mix(mix(place ^ first) ^ second).reshape(shape)


def _select(image, chosen):
    """BLURS[chosen] of the image; all are computed, as under vmap they would be anyway."""
    return functools.reduce(
        lambda blurred, item: jnp.where(chosen == item[0], item[1](image), blurred), enumerate(BLURS[1:], 1), image
    )


def _rectangle(key, sides, height, width):
    """Where a rectangle of the given shares of the sides lies, somewhere inside: bool [H, W]."""
    spans = []
    for along, side, share in zip(jax.random.split(key), sides, (height, width), strict=True):
        length = jnp.minimum(share, 1.0) * side
        first = jax.random.uniform(along) * (side - length)
        centres = jnp.arange(side) + 0.5
        spans.append((centres >= first) & (centres < first + length))
    return spans[0][:, None] & spans[1][None, :]


# Option -> matrix: those that move pixels, composed to one resampling, which comes first.
MOVES: dict[str, Callable] = {
    "rotate": _rotation,
    "scale": _scaling,
    "crop": _cropping,
    "flip": _mirroring,
    "shift": _shifting,
}
# Option -> operation, in the order of application.
OPERATIONS: dict[str, Callable] = {
    "brightness": lambda key, image, value: brightness(key, image, strength=value),
    "variant": lambda key, image, value: variant(key, image, strength=value),
    "blur": lambda key, image, value: blur(key, image, probability=value),
    "contrast": lambda key, image, value: contrast(key, image, strength=value),
    "gamma": lambda key, image, value: gamma(key, image, strength=value),
    "noise": lambda key, image, value: noise(key, image, deviation=value),
    "erase": lambda key, image, value: erase(key, image, area=value),
}
# The place here is the operation's own key: append, so that the draws of the others stay what they were.
_PLACES = ("flip", "shift", "brightness", "rotate", "scale", "crop", "variant", "blur", "contrast", "gamma", "noise")
_PLACES += ("erase",)
MIXES = ("mixup", "cutmix")


def augment(key: jax.Array, image: jax.Array, options: dict[str, Number]) -> jax.Array:
    """The chain on one image [H, W, C]; `options` gives those of MOVES and OPERATIONS that are in it their strength."""
    folded = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(_PLACES)))
    keys = dict(zip(_PLACES, folded, strict=True))
    stored = image
    if moves := [name for name in MOVES if name in options]:
        matrix = functools.reduce(_compose, (MOVES[name](keys[name], image.shape, options[name]) for name in moves))
        image = _sampled(image, matrix, sum(options[name] for name in moves))
    for name in [name for name in OPERATIONS if name in options]:
        operation = functools.partial(OPERATIONS[name], keys[name], value=options[name])
        # Brightness costs less than the pass over memory that keeping it apart takes.
        together = image is stored or name == "brightness"
        image = operation(image) if together else _apart(operation, image, options[name])
    return jnp.asarray(image, jnp.float32)


# On a CPU each of the next two stands in a conditional, for XLA's compiler drops `optimization_barrier` there before it
# fuses, but stops at a conditional whose outcome it cannot know, as that of a strength that is traced.


def _sampled(image, matrix, strength):
    """The image as `imaging.sample_affine` moves it, written once.

    Fused with what comes after, each of its readers would do the sampling anew: in a step of vggs_small, normalised for
    the first convolution and transposed for that one's gradient, it cost a tenth of the time and more.
    """

    def sample(image):
        return imaging.sample_affine(jnp.asarray(image, jnp.float32), matrix)

    def conditional(image):
        return lax.cond(strength != 0, sample, lambda image: jnp.asarray(image, jnp.float32), image)

    return lax.platform_dependent(image, cpu=conditional, default=sample)


def _apart(operation, image, strength):
    """operation(image), which a CPU does not fuse with what comes before and after it.

    Fused, all that a pixel has gone through is computed again for each of its readers (nine in a blur), in loops too
    long for vector lanes: the whole chain takes four times as long.
    """
    height = image.shape[0]

    def conditional(image):
        changed = lax.cond(
            strength != 0,
            lambda image: operation(image).reshape(height, -1),  # as rows: fast on vector lanes
            lambda image: jnp.maximum(image, 0).reshape(height, -1),  # the same values; `image` itself costs copies
            image,
        )
        return changed.reshape(image.shape)

    return lax.platform_dependent(image, cpu=conditional, default=operation)


def augment_batch(key: jax.Array, images: jax.Array, first: jax.Array | int, options: dict[str, Number]) -> jax.Array:
    """The chain on images [B, H, W, C], of which the first is number `first` of the global batch.

    The draws depend on that number alone, so one device and eight augment alike.
    """
    keys = _keys(key, first, images.shape[0])
    return jax.vmap(augment, (0, 0, None))(keys, images, options)


def mix(
    key: jax.Array, images: jax.Array, labels: dict, first: jax.Array | int, options: dict[str, Number], axis_name: str
) -> tuple[jax.Array, dict, jax.Array]:
    """Mixes each image with another of the global batch: mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019).

    Args:
      images: [B, H, W, C] of this device, augmented; the first is number `first` of the global batch.
      labels: what else the batch holds, each [B, ...].
      options: `mixup` and `cutmix`, the parameter of the Beta distribution of the share; 0 leaves every image whole.
        Where both are given, each image takes one of them, evenly.
      axis_name: the mesh axis over which the batch is split.

    Returns:
      The mixed images, the others' labels, and the share [B] in 0..1 that each image keeps of itself: the loss is
      share * loss(own label) + (1 - share) * loss(other label).
    """
    count = images.shape[0]
    whole = lax.all_gather((images, labels), axis_name, tiled=True)
    total = count * lax.psum(1, axis_name)
    step_key, key = jax.random.split(key)
    step = jax.random.randint(step_key, (), 1, max(total, 2))
    partners = (first + jnp.arange(count) + step) % total
    others, other_labels = jax.tree.map(lambda array: array[partners], whole)
    mixed, shares = jax.vmap(_mix_two, (0, 0, 0, None))(_keys(key, first, count), images, others, options)
    return mixed, other_labels, shares


def _mix_two(key, image, other, options):
    which_key, share_key, place_key = jax.random.split(key, 3)
    alphas = jnp.array([options.get(name, 0.0) for name in MIXES])
    if len(options) == 2:
        cut = jax.random.bernoulli(which_key)
    else:
        cut = jnp.array("cutmix" in options)
    alpha = alphas[cut.astype(jnp.int32)]
    share = jnp.where(alpha > 0, _symmetric_beta(share_key, jnp.maximum(alpha, 1e-3)), 1.0)
    side = jnp.sqrt(1 - share)
    inside = _rectangle(place_key, image.shape[:2], side, side)
    pasted = jnp.where(inside[..., None], other, image)
    blended = jnp.where(share == 1, image, share * image + (1 - share) * other)
    return jnp.where(cut, pasted, blended), jnp.where(cut, 1 - inside.mean(), share)


def _symmetric_beta(key, alpha):
    """A draw of Beta(alpha, alpha), without the loops of `jax.random.beta`, each turn of which a GPU asks its host for.

    With T of Student's t distribution of 2 alpha degrees of freedom it is (1 + T / sqrt(2 alpha + T**2)) / 2, and T is
    drawn by the polar method of Bailey 1994 (Mathematics of Computation 62).
    """
    radius_key, angle_key = jax.random.split(key)
    cosine = jnp.cos(2 * jnp.pi * jax.random.uniform(angle_key))
    odds = cosine**2 * jnp.expm1(-jnp.log1p(-jax.random.uniform(radius_key)) / alpha)  # T**2 / (2 alpha)
    return 0.5 * (1 + jnp.sign(cosine) / jnp.sqrt(1 + 1 / odds))


def _keys(key, first, count):
    """A key for each example, by its number in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))


def preview(config, path, *, data_dir=None, images: int = 8, draws: int = 9) -> None:
    """Draws training images as stored and as the model of the config sees them, before normalisation.

    Raises:
      UserError: as `config.validate`, and of the data.
    """
    from fer_jax import config as config_lib
    from fer_jax import figures, sharding
    from fer_jax.data import combine

    config_lib.validate(config)
    dataset = combine.load(config.data, data_dir)
    stored = dataset.arrays("train")["image"]
    chosen = np.asarray(stored[np.linspace(0, len(stored) - 1, images).astype(int)])
    of_images, of_pairs = split_options(strengths(config.augment))
    shape = tuple(config.model.input_shape)

    def see(key, batch):
        augment_key, mix_key = jax.random.split(key)
        seen = augment_batch(augment_key, batch, 0, of_images)
        if of_pairs:
            seen, _, _ = mix(mix_key, seen, {}, 0, of_pairs, sharding.AXIS)
        return imaging.to_input(seen, shape)

    mesh = sharding.make_mesh(jax.devices()[:1])
    replicated = sharding.REPLICATED
    program = jax.jit(sharding.mapped(see, mesh, (replicated, replicated), replicated))
    columns = {"stored": chosen}
    for number in range(draws):
        seen = np.asarray(program(jax.random.fold_in(jax.random.key(config.seed), number), chosen))
        columns[str(number + 1)] = seen.round().clip(0, 255).astype(np.uint8)
    figures.contact_sheet(columns, path)


def strengths(options: ConfigDict) -> dict[str, np.float32]:
    """The options of `config.augment` that are above 0; what is 0 is not compiled in."""
    return {name: np.float32(value) for name, value in options.to_dict().items() if value}


def split_options(options: dict[str, Number]) -> tuple[dict[str, Number], dict[str, Number]]:
    """The options of single images, for `augment_batch`, and those of `mix`."""
    of_images = {name: value for name, value in options.items() if name not in MIXES}
    return of_images, {name: value for name, value in options.items() if name in MIXES}


def main() -> None:
    """The command line; exits with 1 and a message on what the user can mend."""
    from absl import flags

    from fer_jax import command_line, files, process

    for name in ("config", "data_dir"):  # --help shows them too
        flags.declare_key_flag(name)
    preview_flag = flags.DEFINE_string("preview", "augmentation.png", "the picture to draw")

    def draw(_argv):
        process.set_up()
        command_line.refuse_unread_data_dir([command_line.CONFIG.value])
        preview(command_line.CONFIG.value, files.user_path(preview_flag.value), data_dir=command_line.DATA_DIR.value)
        print(f"preview: {preview_flag.value}")

    command_line.entry(draw)


if __name__ == "__main__":
    main()
