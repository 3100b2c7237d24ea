"""Augmentation: identity at strength 0, eager == jit == vmap, definitions by numpy, and draws that devices share."""

import inspect
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fer_jax import augment, config, sharding
from fer_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (13, 10, 3), dtype=np.uint8)
STRENGTHS = {"flip": 0.5, "shift": 0.3, "brightness": 0.4, "rotate": 30.0, "scale": 0.2, "crop": 0.3, "variant": 0.5}
STRENGTHS |= {"blur": 0.8, "contrast": 0.5, "gamma": 0.7, "noise": 20.0, "erase": 0.4}


def test_every_option_of_the_config_is_an_operation_and_the_other_way_round():
    options = set(config.default_config().augment)
    assert options == {*augment.MOVES, *augment.OPERATIONS, *augment.MIXES} == {*STRENGTHS, *augment.MIXES}
    assert set(augment._PLACES) == set(STRENGTHS)


@pytest.mark.parametrize("name", STRENGTHS)
def test_strength_zero_is_the_identity_bit_for_bit(name):
    for seed in range(5):
        out = jax.jit(augment.augment)(jax.random.key(seed), IMAGE, {name: 0.0})
        np.testing.assert_array_equal(out, IMAGE)


@pytest.mark.parametrize("name", STRENGTHS)
def test_eager_jit_and_vmap_agree(name):
    def operation(key, image, strength):
        return augment.augment(key, image, {name: strength})

    strength = STRENGTHS[name]
    keys = jax.random.split(jax.random.key(1), 3)
    eager = np.stack([operation(key, IMAGE, strength) for key in keys])
    jitted = jax.jit(operation)
    near = {"rtol": 1e-5, "atol": 2e-3}  # places of samples differ in their last bits
    np.testing.assert_allclose([jitted(key, IMAGE, strength) for key in keys], eager, **near)
    np.testing.assert_allclose(jax.vmap(operation, (0, None, None))(keys, IMAGE, strength), eager, **near)
    assert len({image.tobytes() for image in eager}) > 1  # it does something
    assert eager.dtype == np.float32
    assert eager.min() >= 0
    assert eager.max() <= 255


def test_flip_mirrors_with_its_probability():
    always = augment.flip(jax.random.key(0), IMAGE, probability=1.0)
    np.testing.assert_array_equal(always, IMAGE[:, ::-1])
    keys = jax.random.split(jax.random.key(1), 2000)
    flipped = jax.vmap(lambda key: augment.flip(key, IMAGE, probability=0.3)[0, 0, 0] != IMAGE[0, 0, 0])(keys)
    assert float(flipped.mean()) == pytest.approx(0.3, abs=0.04)


def test_shift_is_a_crop_of_the_image_with_replicated_borders_and_reaches_its_limits():
    rows, columns = 4, 3  # 0.35 of 13 and of 10, whole pixels
    padded = np.pad(IMAGE, ((rows, rows), (columns, columns), (0, 0)), mode="edge")
    crops = {
        padded[r : r + 13, c : c + 10].tobytes(): (r - rows, c - columns)
        for r in range(2 * rows + 1)
        for c in range(2 * columns + 1)
    }
    keys = jax.random.split(jax.random.key(2), 600)
    images = np.asarray(jax.vmap(lambda key: augment.shift(key, IMAGE, fraction=0.35))(keys)).astype(np.uint8)
    offsets = {crops[image.tobytes()] for image in images}
    assert len(offsets) == 63


def test_brightness_scales_and_clips():
    for seed in range(5):
        out = np.asarray(augment.brightness(jax.random.key(seed), IMAGE, strength=0.4))
        inside = (out < 255) & (IMAGE > 0)
        factors = out[inside] / IMAGE[inside]
        np.testing.assert_allclose(factors, factors[0], rtol=1e-5)
        assert 0.6 <= factors[0] <= 1.4


def test_the_draws_depend_on_the_place_in_the_global_batch_alone():
    images = np.stack([IMAGE] * 8)
    batch = jax.jit(augment.augment_batch)
    whole = batch(jax.random.key(3), images, 0, STRENGTHS)
    parts = [batch(jax.random.key(3), images[i : i + 2], i, STRENGTHS) for i in (0, 2, 4, 6)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-3)
    assert len({image.tobytes() for image in np.asarray(whole)}) == 8


def test_strengths_may_be_traced():
    jitted = jax.jit(lambda *arguments: augment.augment_batch(*arguments))  # a cache of its own
    images = np.stack([IMAGE] * 4)
    for strength in (0.1, 0.2):
        jitted(jax.random.key(0), images, 0, dict.fromkeys(STRENGTHS, jnp.float32(strength)))
    assert jitted._cache_size() == 1


@pytest.mark.parametrize("operation", [getattr(augment, name) for name in STRENGTHS])
def test_the_key_comes_first_and_options_are_keyword_only(operation):
    first, second, *options = inspect.signature(operation).parameters.values()
    assert [first.name, second.name] == ["key", "image"]
    assert all(option.kind is inspect.Parameter.KEYWORD_ONLY for option in options)


def draws(name, count=400, image=IMAGE):
    """What an operation makes of one image, by many keys: float32 [count, H, W, C]."""
    keys = jax.random.split(jax.random.key(7), count)
    return np.asarray(jax.jit(jax.vmap(lambda key: augment.augment(key, image, {name: STRENGTHS[name]})))(keys))


def test_rotation_and_scale_turn_and_enlarge_about_the_centre_within_their_limits():
    dot = np.zeros((41, 41, 1), np.uint8)
    dot[20, 32] = 255  # 12 pixels right of the centre
    rows, columns = np.mgrid[:41, :41] - 20

    def centroids(images):
        weight = images[..., 0] / images[..., 0].sum((1, 2), keepdims=True)
        return (weight * columns).sum((1, 2)), (weight * rows).sum((1, 2))

    across, down = centroids(draws("rotate", image=dot))
    np.testing.assert_allclose(np.hypot(across, down), 12, atol=0.4)
    angles = np.degrees(np.arctan2(down, across))
    assert -32 < angles.min() < -25
    assert 25 < angles.max() < 32
    across, down = centroids(draws("scale", image=dot))
    np.testing.assert_allclose(down, 0, atol=1e-3)
    assert 12 * 0.8 - 0.5 < across.min() < 12 * 0.85
    assert 12 * 1.15 < across.max() < 12 * 1.2 + 0.5


def test_crops_lie_within_the_image_and_reach_its_borders():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], (60, 1, 1))  # the column, times four
    out = draws("crop", image=ramp)[:, 30, :, 0] / 4
    sides = np.diff(out[:, [1, -2]])[:, 0] / 57  # of what is shown, clear of the replicated borders
    assert 0.69 < sides.min() < 0.75
    assert sides.max() > 0.97
    assert out.min() >= 0
    assert (out[:, 0] < 0.6).any()
    assert (out[:, -1] > 58.4).any()


def test_crops_of_an_oblong_image_are_drawn_evenly_along_both_sides():
    keys = jax.random.split(jax.random.key(7), 400)
    matrices = np.asarray(jax.vmap(lambda key: augment._cropping(key, (30, 60, 1), 0.3))(keys))
    room = 1 - matrices[:, 0, 0]  # the share of a side that is cut off
    for axis, side in ((0, 60), (1, 30)):
        assert stats.kstest(matrices[:, axis, 2] / (room * side) + 0.5, "uniform").statistic < 0.08


def test_moves_together_are_one_resampling():
    options = {name: STRENGTHS[name] for name in augment.MOVES}
    smooth = cv2.GaussianBlur(np.random.default_rng(1).uniform(0, 255, (40, 40)), (0, 0), 5).astype(np.float32)
    smooth = smooth[..., None]
    for seed in range(4):
        key = jax.random.key(seed)
        together = augment.augment(key, smooth, options)
        keys = {name: jax.random.fold_in(key, augment._PLACES.index(name)) for name in options}
        in_turn = augment.rotate(keys["rotate"], smooth, degrees=options["rotate"])
        in_turn = augment.scale(keys["scale"], in_turn, fraction=options["scale"])
        in_turn = augment.crop(keys["crop"], in_turn, fraction=options["crop"])
        in_turn = augment.flip(keys["flip"], in_turn, probability=options["flip"])
        in_turn = augment.shift(keys["shift"], in_turn, fraction=options["shift"])
        inside = np.s_[17:23, 17:23]  # clear of borders replicated on the way
        np.testing.assert_allclose(together[inside], in_turn[inside], atol=1)


@pytest.fixture(scope="module")
def chain():
    return jax.jit(lambda *arguments: augment.augment_batch(*arguments))


def test_the_chain_is_its_operations_in_turn(chain):
    options = {name: np.float32(value) for name, value in STRENGTHS.items() if name not in augment.MOVES}
    keys = augment._keys(jax.random.key(4), 0, 3)
    expected = np.stack([IMAGE.astype(np.float32)] * 3)
    for name, operation in augment.OPERATIONS.items():
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, augment._PLACES.index(name))
        expected = jax.jit(jax.vmap(operation, (0, 0, None)))(own, expected, options[name])
    images = np.stack([IMAGE] * 3)
    np.testing.assert_allclose(chain(jax.random.key(4), images, 0, options), expected, rtol=1e-5, atol=5e-3)


def test_in_a_chain_too_strength_zero_is_the_identity(chain):
    images, key = np.stack([IMAGE] * 4), jax.random.key(0)
    nothing = dict.fromkeys(STRENGTHS, np.float32(0))
    np.testing.assert_array_equal(chain(key, images, 0, nothing), images)
    alone = chain(key, images, 0, {"gamma": np.float32(0.7)})
    np.testing.assert_allclose(chain(key, images, 0, nothing | {"gamma": np.float32(0.7)}), alone, rtol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts what XLA's CPU compiler computes twice")
def test_the_whole_chain_computes_no_more_than_its_parts(chain):
    def work(names):
        options = {name: np.float32(STRENGTHS[name]) for name in names}
        compiled = chain.lower(jax.random.key(0), np.zeros((2, 24, 24, 3), np.uint8), 0, options).compile()
        return compiled.cost_analysis()["flops"]

    parts = [tuple(augment.MOVES), *((name,) for name in augment.OPERATIONS)]
    assert work(STRENGTHS) < 1.1 * sum(map(work, parts))


def test_contrast_gamma_and_noise_by_their_definitions():
    grey = np.arange(256, dtype=np.float32).reshape(16, 16, 1)
    for image in draws("contrast", 20, grey):
        inside = (image > 0) & (image < 255)
        factor = ((image - 127.5) / (grey - 127.5))[inside]
        np.testing.assert_allclose(factor, np.median(factor), rtol=1e-3)
        assert 0.5 <= np.median(factor) <= 1.5
    tinted = np.linspace(60, 120, 192, dtype=np.float32).reshape(3, 8, 8).transpose(1, 2, 0)
    for image in draws("contrast", 20, tinted):  # about the mean of all channels, which keeps their hue
        factor = (image - 90) / (tinted - 90)
        np.testing.assert_allclose(factor, np.median(factor), rtol=1e-3)
    for image in draws("gamma", 20, grey):
        power = np.log(image[8:, :-1] / 255) / np.log(grey[8:, :-1] / 255)
        np.testing.assert_allclose(power, np.median(power), rtol=1e-2)
        assert 2**-0.7 <= np.median(power) <= 2**0.7
    differences = draws("noise", 50, np.full((20, 20, 1), 128, np.uint8)) - 128
    assert differences.std() == pytest.approx(20, rel=0.02)
    assert abs(differences.mean()) < 0.5


def test_noise_is_gaussian_and_the_filling_even():
    noise = draws("noise", 40, np.full((40, 40, 1), 128, np.uint8)).ravel() - 128
    assert stats.kstest(noise / 20, "norm").statistic < 0.008
    assert stats.kurtosis(noise) == pytest.approx(-1.2 / 8, abs=0.05)  # of the sum of eight even draws
    filled = draws("erase", 60, np.full((40, 40, 1), 300, np.float32))
    assert stats.kstest(filled[filled != 300] / 255, "uniform").statistic < 0.02


def test_random_words_are_balanced_and_alike_in_nothing():
    keys = jax.random.split(jax.random.key(5), 4)
    words = np.asarray(jax.vmap(lambda key: augment._bits(key, (64, 64, 3)))(keys)).reshape(4, -1)
    bits = (words[..., None] >> np.arange(32)) & 1  # [key, place, bit]
    limit = 5 * 0.5 / words.shape[1] ** 0.5  # five deviations
    np.testing.assert_allclose(bits.mean(1), 0.5, atol=limit)
    for shift in (1, 2, 3, 64 * 3):  # neighbours across, channels, and the row below
        np.testing.assert_allclose((bits[:, shift:] ^ bits[:, :-shift]).mean(1), 0.5, atol=limit)
    for one, other in ((0, 1), (1, 2), (0, 3)):
        np.testing.assert_allclose((bits[one] ^ bits[other]).mean(0), 0.5, atol=limit)
    np.testing.assert_allclose((bits[..., :1] ^ bits[..., 1:]).mean(1), 0.5, atol=limit)  # bits of one word
    assert len(np.unique(words)) > 0.999 * words.size


def test_erasing_fills_one_rectangle_of_limited_area():
    image = np.full((40, 40, 1), 300, np.float32)  # no noise has this value
    changed = draws("erase", 200, image)[..., 0] != 300
    areas = changed.mean((1, 2))
    assert areas.max() < 0.43
    assert areas.max() > 0.3
    for mask in changed:
        rows, columns = mask.any(1), mask.any(0)
        assert (mask == rows[:, None] & columns).all()
        assert not rows.any() or np.ptp(np.flatnonzero(rows)) + 1 == rows.sum()


def test_the_28_of_the_paper():
    variants = np.asarray(jax.jit(augment.variants)(IMAGE, strength=0.6)).reshape(7, 4, *IMAGE.shape)
    border = {"borderType": cv2.BORDER_REPLICATE}
    blurred = [IMAGE, cv2.GaussianBlur(IMAGE, (3, 3), 0, **border), cv2.blur(IMAGE, (3, 3), **border)]
    blurred.append(cv2.medianBlur(IMAGE, 3))
    for level, factor in enumerate((0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6)):
        for number, reference in enumerate(blurred):
            expected = np.clip(reference.astype(float) * factor, 0, 255)
            np.testing.assert_allclose(variants[level, number], expected, atol=1.6)  # OpenCV has rounded
    np.testing.assert_array_equal(variants[3, 0], IMAGE)
    # Sampled online: each of them, about as often as the others.
    keys = jax.random.split(jax.random.key(0), 2800)
    sampled = np.asarray(jax.vmap(lambda key: augment.variant(key, IMAGE, strength=0.6))(keys)).reshape(2800, -1)
    distances = np.abs(sampled[:, None, ::7] - variants.reshape(28, -1)[None, :, ::7]).max(-1)
    np.testing.assert_allclose(distances.min(1), 0, atol=1e-3)
    counts = np.bincount(distances.argmin(1), minlength=28)
    assert 60 < counts.min() <= counts.max() < 145


def test_blur_has_its_probability_and_its_three_kinds():
    kinds = [np.asarray(operation(IMAGE.astype(np.float32))) for operation in augment.BLURS]
    out = draws("blur", 2000)
    which = np.array([[np.allclose(image, kind, atol=1e-3) for kind in kinds] for image in out])
    assert (which.sum(1) == 1).all()
    np.testing.assert_allclose(which.mean(0), [0.2, 0.8 / 3, 0.8 / 3, 0.8 / 3], atol=0.04)


def mixed(options, devices, count=16):
    """What `mix` makes of images of which number i has the value 10 * i, on so many devices."""
    images = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None] * 10, (count, 8, 8, 1))
    mesh = sharding.make_mesh(jax.devices()[:devices])

    def on_each(images, labels):
        first = jax.lax.axis_index(sharding.AXIS) * images.shape[0]
        return augment.mix(jax.random.key(3), images, labels, first, options, sharding.AXIS)

    spread = jax.shard_map(
        on_each, mesh=mesh, in_specs=(sharding.SPLIT, sharding.SPLIT), out_specs=sharding.SPLIT, check_vma=False
    )
    mixed, others, share = jax.jit(spread)(images, {"label": np.arange(count)})
    return images, np.asarray(mixed), np.asarray(others["label"]), np.asarray(share)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_is_with_another_image_of_the_global_batch_by_the_share_it_tells(options):
    _, out, others, share = mixed(options, 8)
    assert sorted(others) == list(range(16))
    assert (others != np.arange(16)).all()
    assert len(set(share)) >= (8 if "cutmix" in options else 16)  # a draw for each; of CutMix in 64ths, some are equal
    assert ((share >= 0) & (share <= 1)).all()
    expected = share * np.arange(16) * 10 + (1 - share) * others * 10
    np.testing.assert_allclose(out.mean((1, 2, 3)), expected, atol=1e-3)
    pure = [np.isin(image, (10 * i, 10 * others[i])).all() for i, image in enumerate(out)]
    assert any(pure) == ("cutmix" in options)  # pasted, not blended
    for a, b in zip(mixed(options, 1)[1:], (out, others, share), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("options", [{"mixup": 0.0}, {"cutmix": 0.0}])
def test_mixing_of_strength_zero_leaves_every_image_whole(options):
    images, out, _, share = mixed(options, 1)
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(share, 1)


def test_the_preview_is_drawn(tmp_path):
    path = tmp_path / "sheet.png"
    arguments = ["--config=configs/vggs_small.py", f"--preview={path}", "--config.data.variant=small"]
    arguments += ["--config.augment.mixup=0.4", "--config.augment.rotate=20.0"]
    command = [sys.executable, "-m", "fer_jax.augment", *arguments]
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert cv2.imread(str(path)).std() > 20


def test_the_preview_of_a_config_that_no_run_would_take_is_refused(tmp_path):
    misspelt = config.default_config()
    with misspelt.unlocked():
        misspelt.augment.rotat = 10.0
    with pytest.raises(UserError, match=r"unknown config field 'augment\.rotat'"):
        augment.preview(misspelt, tmp_path / "sheet.png")


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("brightness", 0.6, 1.4), ("contrast", 0.5, 1.5), ("gamma", 2**-0.7, 2**0.7)],
)
def test_light_is_drawn_to_both_sides_and_to_its_limits(name, least, most):
    image = np.linspace(60, 120, 64, dtype=np.float32).reshape(8, 8, 1)  # its mean is 90; nothing is clipped
    out = draws(name, 400, image)
    if name == "brightness":
        found = out / image
    elif name == "contrast":
        found = (out[:, [0, -1]] - 90) / (image[[0, -1]] - 90)  # about the image's own mean
    else:
        found = np.log(out / 255) / np.log(image / 255)
    found = found.reshape(len(found), -1)
    np.testing.assert_allclose(found, found[:, :1].repeat(found.shape[1], 1), rtol=1e-3)
    span = np.log2(found[:, 0]) if name == "gamma" else found[:, 0]
    low, high = (np.log2(least), np.log2(most)) if name == "gamma" else (least, most)
    assert stats.kstest((span - low) / (high - low), "uniform").statistic < 0.08


@pytest.mark.parametrize(("name", "alpha"), [("mixup", 0.2), ("mixup", 2.0), ("cutmix", 2.0)])
def test_the_share_of_a_mix_has_the_beta_distribution_of_its_parameter(name, alpha):
    keys = jax.random.split(jax.random.key(0), 2000)
    image = jnp.zeros((64, 64, 1))
    _, share = jax.jit(jax.vmap(lambda key: augment._mix_two(key, image, image + 1, {name: alpha})))(keys)
    assert stats.kstest(share, stats.beta(alpha, alpha).cdf).statistic < 0.05


def test_where_both_are_given_half_of_the_images_are_mixed_by_each():
    image, both = jnp.zeros((16, 16, 1)), {"mixup": 1.0, "cutmix": 1.0}
    keys = jax.random.split(jax.random.key(0), 1000)
    mixed, _ = jax.jit(jax.vmap(lambda key: augment._mix_two(key, image, image + 1, both)))(keys)
    pasted = ((mixed == 0) | (mixed == 1)).all((1, 2, 3))  # of mixup all pixels lie between
    assert stats.binomtest(int(pasted.sum()), len(pasted), 0.5).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_the_draws_without_loops_have_the_symmetric_beta_distribution(alpha):
    keys = jax.random.split(jax.random.key(0), 100_000)
    share = np.asarray(jax.jit(jax.vmap(lambda key: augment._symmetric_beta(key, alpha)))(keys))
    assert ((share >= 0) & (share <= 1)).all()
    points = np.array([0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])  # nearer to 1 float32 has few numbers
    found = (share[:, None] <= points).mean(0)
    np.testing.assert_allclose(found, stats.beta(alpha, alpha).cdf(points), atol=0.005)
    assert "while" not in str(jax.make_jaxpr(augment._symmetric_beta)(keys[0], alpha))


def test_erased_rectangles_are_of_every_shape_from_1_to_3():
    changed = draws("erase", 300, np.full((60, 60, 1), 300, np.float32))[..., 0] != 300
    high, wide = changed.any(2).sum(1), changed.any(1).sum(1)
    large = (high > 8) & (wide > 8)
    ratios = np.log(high[large] / wide[large]) / np.log(3)
    assert -1.15 < ratios.min() < -0.8
    assert 0.8 < ratios.max() < 1.15
