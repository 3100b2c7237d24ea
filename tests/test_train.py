"""The training step and its loop: one device equals eight, and a scan equals a loop."""

import functools
import os
import re
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import augment, heads, models, sharding, train
from fer_jax.config import default_config
from fer_jax.data import pipeline
from fer_jax.errors import UserError
from fer_jax.run import make_recipe
from tests.faces import noise_arrays
from tests.test_pipeline import dataset

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COUNTS = (3, 1, 4, 1, 5, 9, 2)
STRENGTHS = {"rotate": 20.0, "scale": 0.1, "crop": 0.2, "variant": 0.3, "blur": 0.3, "contrast": 0.3, "gamma": 0.3}
STRENGTHS |= {"noise": 5.0, "erase": 0.2, "mixup": 0.4, "cutmix": 1.0}
EVERY_AUGMENTATION = {f"augment.{name}": strength for name, strength in STRENGTHS.items()}


def small_config(**overrides):
    """A BatchNorm + dropout model that compiles in seconds, trained with plain SGD."""
    config = default_config()
    config.model.name = "shallow"
    config.model.options.update({"filters": (8, 8), "hidden": (16,)})
    config.model.input_shape = (48, 48, 1)
    config.optim.update({"learning_rate": 0.05, "schedule": "constant", "momentum": 0.0, "nesterov": False})
    config.update_from_flattened_dict(overrides)
    return config


def make(config, mesh):
    data = dataset({"train": 100})
    object.__setattr__(data, "emotions", EMOTIONS)
    recipe = make_recipe(config, data, steps_per_epoch=6)
    normalizer = {"mean": np.full(1, 127.5, np.float32), "scale": np.full(1, 1 / 127.5, np.float32)}
    state = train.init_state(recipe, jax.random.key(0), normalizer, mesh, ema=config.train.ema_decay > 0)
    hyper = sharding.replicate(train.hyperparameters(config, COUNTS), mesh)
    return recipe, state, hyper


def in_form(patch, form):
    """What `most` of `train.training_steps` is to be; from now on it trains as on a CPU (`loop`) or an accelerator."""
    patch.setattr(sharding, "on_cpu", lambda mesh: form == "loop")
    return {"loop": 1, "scan": train.MOST_STEPS, "parts": 4}[form]


def run_steps(config, mesh, steps, form="loop"):
    """The losses of the first steps, and the final state, on noise."""
    recipe, state, hyper = make(config, mesh)
    order = pipeline.TrainOrder(length=100, batch_size=16, seed=0)
    split = pipeline.ResidentSplit(noise_arrays(100), mesh)
    key = jax.random.key(1)
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        common = {"recipe": recipe, "mesh": mesh, "stop": steps, "most": in_form(patch, form)}
        for taken, metrics in train.training_steps(state, split, order, key, hyper, **common):
            state = taken
            assert form == "loop" or metrics["loss"].is_ready()  # signals are looked for in between
            losses.extend(np.atleast_1d(metrics["loss"]).tolist())
    return np.array(losses), jax.device_get(state)


@pytest.fixture(scope="module")
def eight():
    return sharding.make_mesh()


@pytest.fixture(scope="module")
def one():
    return sharding.make_mesh(jax.devices()[:1])


def test_eight_devices_equal_one_over_twenty_steps_with_batchnorm_dropout_and_augmentation(one, eight):
    assert eight.size == 8
    # At a larger rate a ReLU or maximum that rounding tips to its other side moves the loss by more than 1e-5.
    config = small_config(**{"optim.learning_rate": 2e-3})
    assert config.augment.flip > 0
    alone, _ = run_steps(config, one, 20)
    together, _ = run_steps(config, eight, 20)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert alone.std() > 1e-3  # the losses do move


def test_every_augmentation_at_once_gives_the_same_on_eight_devices_and_on_one(one, eight):
    config = small_config(**{"optim.learning_rate": 2e-3} | EVERY_AUGMENTATION)
    alone, _ = run_steps(config, one, 3)
    together, _ = run_steps(config, eight, 3)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_mixed_example_has_the_loss_of_both_labels(one):
    """With outputs that don't depend on the image the loss is a share of each label's, weights included."""
    config = small_config(**{"optim.learning_rate": 1e-12, "augment.mixup": 0.5})
    weights = (5.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.5)
    recipe, state, hyper = make(config, one)
    hyper |= {"class_weights": np.array(weights, np.float32)}
    bias = np.linspace(-1, 1, 7, dtype=np.float32)
    last = jax.tree.map(jnp.zeros_like, state.params["Dense_1"]) | {"bias": bias}
    state = state.replace(params=state.params | {"Dense_1": last})
    batch = noise_arrays(16) | {"mask": np.ones(16, bool)}
    key = jax.random.key(1)
    spread = sharding.split_batch(batch, one)
    _, metrics = train.compile_step(recipe, one)(sharding.replicate(state, one), spread, key, hyper)
    mix_key = jax.random.split(jax.random.fold_in(key, 0), 3)[2]
    mix = jax.shard_map(
        lambda images, labels: augment.mix(mix_key, images, labels, 0, {"mixup": 0.5}, sharding.AXIS),
        mesh=one,
        in_specs=(sharding.REPLICATED, sharding.REPLICATED),
        out_specs=sharding.REPLICATED,
        check_vma=False,
    )
    _, others, share = mix(jnp.zeros((16, 1, 1, 1)), {"label": batch["label"]})
    losses = -np.asarray(jax.nn.log_softmax(bias))
    both = [(batch["label"], share), (np.asarray(others["label"]), 1 - share)]
    each = [part * np.array(weights)[label] for label, part in both]
    expected = (
        sum((weight * losses[label]).sum() for weight, (label, _) in zip(each, both, strict=True)) / sum(each).sum()
    )
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_head_of_a_recipe_is_that_of_the_config(one):
    recipe, _, _ = make(small_config(**{"head.loss": "soft", "head.label_share": 0.6}), one)
    assert recipe.head == heads.ClassificationHead(EMOTIONS, "soft", 0.6)


@pytest.mark.parametrize("form", ["scan", "parts"])
def test_a_scanned_epoch_equals_the_loop_of_steps(one, form):
    config = small_config(**{"train.ema_decay": 0.9})
    looped, loop_state = run_steps(config, one, 12)
    scanned, scan_state = run_steps(config, one, 12, form=form)
    np.testing.assert_allclose(scanned, looped, atol=1e-5)
    assert loop_state.step == scan_state.step == 12
    for a, b in zip(jax.tree.leaves(loop_state.ema), jax.tree.leaves(scan_state.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_an_epoch_lowers_for_accelerators_and_takes_their_own_convolutions(one, platform):
    settings = {"model.dtype": "bfloat16", "optim.name": "muon", "train.ema_decay": 0.9}
    recipe, state, hyper = make(small_config(**settings | EVERY_AUGMENTATION), one)
    order = pipeline.TrainOrder(length=100, batch_size=16, seed=0)
    arguments = (state, pipeline.ResidentSplit(noise_arrays(100), one).arrays, order.epoch(0), jax.random.key(1), hyper)
    traced = train.compile_epoch(recipe, one).trace(*arguments)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Two layers, each with the gradients of its kernel and of its input, but that of the images.
    convolutions = re.findall(r"stablehlo.convolution.*: \((.*)\) ->", text)
    assert len(convolutions) == 5
    assert not any("f32" in operands for operands in convolutions)


@pytest.mark.parametrize("form", ["loop", "scan"])
def test_smaller_images_come_first_also_after_a_resume(one, form, monkeypatch):
    small = {"model.options.global_pool": True, "train.epochs": 3, "train.smaller_first": ((1, 24), (1, 32))}
    recipe, state, hyper = make(small_config(**small), one)
    split, key = pipeline.ResidentSplit(noise_arrays(100), one), jax.random.key(1)
    order = pipeline.TrainOrder(length=100, batch_size=16, seed=0)
    assert [recipe.at(step).input_shape[0] for step in (0, 5, 6, 11, 12, 10**6)] == [24, 24, 32, 32, 48, 48]
    expected, losses = [], []
    by_hand = jax.tree.map(jnp.copy, state)
    for step, batch in enumerate(split.batches(order, 0, 14)):
        by_hand, metrics = train.compile_step(recipe.at(step), one)(by_hand, batch, key, hyper)
        expected.append(float(metrics["loss"]))
    most = in_form(monkeypatch, form)
    for cut in (4, 14) if form == "loop" else (6, 14):  # the second time from where the first one stopped
        common = {"recipe": recipe, "mesh": one, "stop": cut, "most": most}
        for taken, metrics in train.training_steps(state, split, order, key, hyper, **common):
            state = taken
            losses.extend(np.atleast_1d(metrics["loss"]).tolist())
    tolerance = {"loop": 0, "scan": 1e-5}[form]
    np.testing.assert_allclose(losses[:14], expected, atol=tolerance)
    if form == "loop":
        jax.tree.map(np.testing.assert_array_equal, state.params, by_hand.params)


def test_a_net_of_one_size_is_not_trained_on_smaller_images():
    data = dataset({"train": 100})
    object.__setattr__(data, "emotions", EMOTIONS)
    with pytest.raises(UserError, match=r"other weights for images of 24 pixels than for those of \(48, 48, 1\)"):
        make_recipe(small_config(**{"train.smaller_first": ((1, 24),)}), data, steps_per_epoch=6)
    config = small_config(**{"model.name": "alexnet", "model.input_shape": (224, 224, 3)})
    config.model.options, config.train.smaller_first = {}, ((1, 24),)
    with pytest.raises(UserError, match=r"alexnet cannot .* train\.smaller_first, 24 pixels .* are too small"):
        make_recipe(config, data, steps_per_epoch=6)
    config = small_config(**{"model.name": "inception_v3", "model.input_shape": (48, 48, 3)})
    config.model.options = {}
    with pytest.raises(UserError, match=r"inception_v3 cannot .* model\.input_shape = \(48, 48, 3\): .* are too small"):
        make_recipe(config, data, steps_per_epoch=6)
    with pytest.raises(UserError, match=r"16 pixels are too few: at least 24"):
        make_recipe(small_config(**{"train.smaller_first": ((1, 16),)}), data, steps_per_epoch=6)


def test_class_weights_give_the_weighted_mean_of_the_whole_batch(one, eight):
    config = small_config(**{"optim.learning_rate": 1e-12})
    weights = (5.0, 1.0, 1.0, 1.0, 2.0, 1.0, 0.5)
    losses = []
    for mesh in (one, eight):
        recipe, state, hyper = make(config, mesh)
        hyper |= {"class_weights": np.array(weights, np.float32)}
        batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, mesh)
        _, metrics = train.compile_step(recipe, mesh)(state, batch, jax.random.key(1), hyper)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    hyper |= {"class_weights": np.ones(7, np.float32)}
    _, metrics = train.compile_step(recipe, eight)(make(config, eight)[1], batch, jax.random.key(1), hyper)
    assert abs(losses[1] - float(metrics["loss"])) > 1e-3


def test_the_running_statistics_are_those_of_the_whole_batches(one, eight):
    still = dict.fromkeys(("augment.flip", "augment.shift", "augment.brightness", "model.options.dropout"), 0.0)
    found = []
    for mesh in (one, eight):
        recipe, state, hyper = make(small_config(**still, **{"optim.learning_rate": 1e-12}), mesh)
        batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, mesh)
        kept = []
        for _ in range(10):
            state, _ = train.compile_step(recipe, mesh)(state, batch, jax.random.key(1), hyper)
            kept.append(np.asarray(state.batch_stats["BatchNorm_0"]["var"]))
        # From 1 on they go towards those of the one batch there is.
        first, last = ((values - 0.9**n) / (1 - 0.9**n) for values, n in ((kept[0], 1), (kept[-1], 10)))
        np.testing.assert_allclose(first, last, rtol=1e-4)
        assert (np.abs(last - 1) > 0.01).all()
        found.append(last)
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_scanned_epoch_on_eight_devices_equals_the_loop_on_one(one, eight):
    config = small_config(**{"optim.learning_rate": 2e-3})
    looped, _ = run_steps(config, one, 6)
    scanned, _ = run_steps(config, eight, 6, form="scan")
    np.testing.assert_allclose(scanned, looped, atol=1e-5)


def test_the_moving_average_follows_its_definition():
    ema, decay = {"w": jnp.zeros(())}, jnp.float32(0.5)
    for step, value in enumerate([1.0, 2.0, 3.0]):
        ema = train._average(ema, {"w": jnp.float32(value)}, jnp.int32(step), decay)
    # decays: min(.5, 1/10), min(.5, 2/11), min(.5, 3/12)
    expected = 0.25 * (2 / 11 * 0.9 + 9 / 11 * 2) + 0.75 * 3
    assert float(ema["w"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("epoch", "most", "parts"),
    [
        (449, 512, [449]),
        (512, 512, [512]),
        (897, 512, [299, 299, 299]),
        (1160, 512, [290, 290, 290, 290]),
        (1021, 512, [511, 510]),  # a prime
        (7, 20, [7]),
        (100, 20, [20] * 5),
    ],
)
def test_the_programs_of_an_epoch_have_one_size_where_they_can(epoch, most, parts):
    start, taken = 0, []
    while start < epoch:
        taken.append(train.steps_at_once(epoch, start, most))
        start += taken[-1]
    assert taken == parts
    # A run that goes on in mid-epoch comes back to these parts.
    start = parts[0] // 2
    assert train.steps_at_once(epoch, start, most) == parts[0] - start


def test_programs_are_as_long_as_a_signal_can_wait(monkeypatch):
    def recipe(name):
        model = models.create(name, num_outputs=7)
        return train.Recipe(model, None, None, None, models.MODELS[name].input_shape)

    assert train.most_steps(recipe("mini_xception"), 64) == train.MOST_STEPS
    some = train.most_steps(recipe("resnet18"), 64)
    flops = models.forward_flops(recipe("resnet18").model, (224, 224, 3))
    assert some == int(train.MOST_OPERATIONS / (3 * 64 * flops)) < train.MOST_STEPS
    assert train.most_steps(recipe("resnet18"), 128) in (some // 2, some // 2 + 1)
    assert train.most_steps(recipe("resnet18"), 10**6) == 1

    def cannot_count(*_):
        raise UserError("no CPU")

    monkeypatch.setattr(models, "forward_flops", cannot_count)
    assert train.most_steps(recipe("resnet18"), 63) == train.MOST_STEPS // 8


def test_a_batch_that_the_devices_do_not_divide_is_refused_with_the_nearest(eight):
    with pytest.raises(UserError, match=r"train\.batch_size = 100 .* 8 devices: use 96 or 104"):
        sharding.check_batch_size(100, eight, "train.batch_size")
    with pytest.raises(UserError, match=r"use 8 \("):
        sharding.check_batch_size(3, eight, "train.batch_size")
    sharding.check_batch_size(64, eight, "train.batch_size")


def test_a_loss_that_is_not_finite_names_its_step():
    window = train.Window([], step=40)
    window.add({"loss": np.array([1.0, np.nan, 2.0]), "learning_rate": np.full(3, 0.1)})
    with pytest.raises(UserError, match=r"nan at step 42 \(learning rate 0\.1\)"):
        window.read()


def test_a_terminal_that_is_closed_is_remembered_though_it_says_so_twice_but_not_under_nohup(as_in_a_terminal):
    before = signal.getsignal(signal.SIGHUP)
    with train.Interruption() as interruption:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    assert interruption.signum == signal.SIGHUP
    assert signal.getsignal(signal.SIGHUP) == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with train.Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.01)
    assert not interruption.signum
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_second_ctrl_c_interrupts_as_usual(as_in_a_terminal):
    with pytest.raises(KeyboardInterrupt), train.Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert interruption.signum == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_window_means_are_cut_at_the_same_steps_whether_or_not_they_were_interrupted():
    rows = [{"loss": float(i), "learning_rate": 0.5**i} for i in range(7)]
    whole = train.Window([], step=0)
    whole.add({name: np.array([row[name] for row in rows]) for name in rows[0]})
    resumed = train.Window(rows[:2], step=2)
    for row in rows[2:]:
        resumed.add({name: np.array(value) for name, value in row.items()})
    assert (
        list(whole.means(3))
        == list(resumed.means(3))
        == [
            (3, {"loss": 1.0, "learning_rate": 0.5**2}),
            (6, {"loss": 4.0, "learning_rate": 0.5**5}),
            (7, {"loss": 6.0, "learning_rate": 0.5**6}),
        ]
    )


def test_a_step_weighs_smooths_and_scores_as_the_config_says(one):
    fields = {"head.class_weights": "inverse", "head.class_weight_power": 0.5, "head.label_smoothing": 0.3}
    recipe, state, hyper = make(small_config(**fields), one)
    # A net whose logits are `bias` whatever it sees.
    bias = np.linspace(-1, 1, 7, dtype=np.float32)[::-1].copy()
    last = jax.tree.map(jnp.zeros_like, state.params["Dense_1"]) | {"bias": jnp.asarray(bias)}
    state = sharding.replicate(state.replace(params=state.params | {"Dense_1": last}), one)
    batch = noise_arrays(16) | {"mask": np.ones(16, bool)}
    batch["label"][5] = heads.IGNORE
    _, metrics = train.compile_step(recipe, one)(state, sharding.split_batch(batch, one), jax.random.key(1), hyper)
    labels = batch["label"][batch["label"] != heads.IGNORE]
    weights = (1 / np.array(COUNTS))[labels] ** 0.5
    targets = 0.7 * np.eye(7)[labels] + 0.3 / 7
    losses = -(targets * np.asarray(jax.nn.log_softmax(bias))).sum(1)
    assert float(metrics["loss"]) == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx((labels == 0).mean(), rel=1e-5)


@pytest.mark.parametrize("still", [("augment.flip", "augment.shift", "augment.brightness"), ("model.options.dropout",)])
def test_every_step_draws_anew(one, still):
    recipe, state, hyper = make(small_config(**{"optim.learning_rate": 1e-12} | dict.fromkeys(still, 0.0)), one)
    batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, one)
    losses = []
    for _ in range(3):
        state, metrics = train.compile_step(recipe, one)(state, batch, jax.random.key(1), hyper)
        losses.append(float(metrics["loss"]))
    assert min(abs(losses[0] - losses[1]), abs(losses[1] - losses[2])) > 1e-4  # of the same images and weights


def test_a_step_tells_the_rate_that_it_took(one):
    recipe, state, hyper = make(small_config(**{"optim.warmup_epochs": 0.5}), one)  # three steps
    batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, one)
    rates = []
    for _ in range(3):
        state, metrics = train.compile_step(recipe, one)(state, batch, jax.random.key(1), hyper)
        rates.append(float(metrics["learning_rate"]))
    np.testing.assert_allclose(rates, 0.05 * np.array([1, 2, 3]) / 3, rtol=1e-6)


def test_the_moving_average_takes_in_what_the_step_made(one):
    recipe, state, hyper = make(small_config(**{"train.ema_decay": 0.15, "optim.learning_rate": 0.1}), one)
    batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, one)
    for decay in (0.1, 0.15):  # early on 1 / 10, 2 / 11 and so on
        before = jax.device_get(state.ema)
        state, _ = train.compile_step(recipe, one)(state, batch, jax.random.key(1), hyper)
        now = {"params": state.params, "batch_stats": state.batch_stats}
        expected = jax.tree.map(lambda old, new, decay=decay: decay * old + (1 - decay) * new, before, now)
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state.ema, expected)


def test_what_is_evaluated_is_the_moving_average(one):
    recipe, state, hyper = make(small_config(**{"train.ema_decay": 0.9, "optim.learning_rate": 0.1}), one)
    batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, one)
    for _ in range(2):
        state, _ = train.compile_step(recipe, one)(state, batch, jax.random.key(1), hyper)
    jax.tree.map(np.testing.assert_array_equal, state.variables["params"], state.ema["params"])
    jax.tree.map(np.testing.assert_array_equal, state.variables["batch_stats"], state.ema["batch_stats"])
    assert (state.variables["params"]["Conv_0"]["kernel"] != state.params["Conv_0"]["kernel"]).any()


def test_the_dropout_of_a_member_is_that_of_its_own_config(one):
    """Members of a sweep share a recipe, and with it the first one's model."""
    recipe, state, hyper = make(small_config(**{"model.options.dropout": 0.5}), one)
    batch = sharding.split_batch(noise_arrays(16) | {"mask": np.ones(16, bool)}, one)
    losses = []
    for rate in (0.5, 0.2):
        own = hyper | {"dropout": {"dropout": np.float32(rate)}}
        copied = jax.tree.map(jnp.copy, state)  # the step takes the memory of what it is given
        _, metrics = train.compile_step(recipe, one)(copied, batch, jax.random.key(1), own)
        losses.append(float(metrics["loss"]))
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_numbers_of_the_step_are_those_of_the_config():
    fields = {"optim.learning_rate": 0.3, "optim.weight_decay": 0.2, "optim.momentum": 0.6, "train.ema_decay": 0.7}
    fields |= {"head.label_smoothing": 0.1, "augment.rotate": 5.0, "model.options.dropout": 0.4}
    hyper = train.hyperparameters(small_config(**fields), COUNTS)
    for name in ("learning_rate", "weight_decay", "ema_decay"):
        section = "train" if name == "ema_decay" else "optim"
        assert hyper[name] == np.float32(fields[f"{section}.{name}"]), name
    assert hyper["label_smoothing"] == np.float32(0.1)
    assert hyper["augment"]["rotate"] == 5
    assert hyper["dropout"] == {"dropout": np.float32(0.4)}


def test_the_schedule_of_a_run_ends_with_its_last_epoch():
    data = dataset({"train": 100})
    object.__setattr__(data, "emotions", EMOTIONS)
    config = small_config(**{"optim.schedule": "cosine", "train.epochs": 4})
    schedule = make_recipe(config, data, steps_per_epoch=6).schedule
    assert [float(schedule(step)) for step in (0, 12, 24)] == pytest.approx([1, 0.5, 0], abs=1e-6)


def test_on_an_accelerator_resident_epochs_are_programs_of_many_steps_and_end_where_they_are_to(one, monkeypatch):
    recipe, state, hyper = make(small_config(), one)
    split = pipeline.ResidentSplit(noise_arrays(100), one)
    order = pipeline.TrainOrder(length=100, batch_size=16, seed=0)

    def compile_epoch(recipe, mesh):
        return lambda state, arrays, order, key, hyper: (state, {"loss": np.zeros(len(order))})

    monkeypatch.setattr(train, "compile_epoch", compile_epoch)
    monkeypatch.setattr(sharding, "on_cpu", lambda mesh: False)

    def sizes(stop, most):
        common = {"recipe": recipe, "mesh": one, "stop": stop, "most": most}
        steps = train.training_steps(state, split, order, jax.random.key(1), hyper, **common)
        return [metrics["loss"].size for _, metrics in steps]

    assert sizes(stop=10, most=train.MOST_STEPS) == [6, 6]  # the last of them passes step 10
    assert sizes(stop=10, most=3) == [3, 3, 3, 3]
    assert sizes(stop=9, most=3) == [3, 3, 3]
    assert sizes(stop=0, most=3) == []
