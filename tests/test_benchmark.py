"""The benchmark command: every suite on a net of a few filters, how it measures, the same work on the PyTorch side."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import benchmark, benchmark_measure, benchmark_models, benchmark_run, benchmark_scaling, train
from fer_jax.course import fresh_state
from tests.faces import write_fer2013

TINY = """
from fer_jax.config import default_config, use_dataset

def get_config(dataset="fer2013"):
    config = use_dataset(default_config(), dataset)
    config.model.name = "{model}"
    config.model.input_shape = (48, 48, 1)
    config.model.options.update({options})
    config.data.normalization = "symmetric"
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-3
    config.head.class_weights = "inverse"
    config.train.batch_size = 16
    config.eval.batch_size = 16
    return config.lock()
"""
OPTIONS = {
    "deep": {"filters": (4, 4, 8, 8), "hidden": (8, 16), "dropout": (0.0, 0.5)},
    "fcn_gap": {"stages": ((4,), (4, 4), (4, 4), (4, 8), (8,)), "dropout": 0.2},
}


@pytest.fixture(autouse=True)
def _process_as_it_is(monkeypatch):
    """Compiled programs come from the cache, and the environment is left alone."""
    monkeypatch.setattr(benchmark_models, "compile_anew", lambda lowered: (lowered.compile(), 1.0))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


@pytest.fixture
def tiny_configs(tmp_path, monkeypatch):
    """Configs of nets of a few filters, in the place of the checkout's."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for model, options in OPTIONS.items():
        (folder / f"{model}.py").write_text(TINY.format(model=model, options=options))
    for module in (benchmark_models, benchmark_run):
        monkeypatch.setattr(module, "CONFIGS", folder)


@pytest.fixture
def raw(tmp_path, cache):
    """A FER2013 of a few images."""
    return write_fer2013(tmp_path / "raw", train=112)


def settings(**changes):
    return benchmark_models.Settings(
        **({"models": ("deep",), "dtypes": ("float32",), "rounds": 2, "seconds": 0} | changes)
    )


def bench(*arguments, rounds="2"):
    return benchmark.run(benchmark.parse(["--models", "deep", "--rounds", rounds, "--seconds", "0", *arguments]))


def is_spread(found, n=2):
    return found["n"] == n and 0 < found["min"] <= found["median"] <= found["max"]


def test_the_sides_take_turns_and_every_other_round_goes_backwards():
    calls = []

    def work(name):
        def take(count):
            calls.append((name, count))
            return count

        return take

    times = benchmark_measure.alternate({"a": work("a"), "b": work("b")}, rounds=3, seconds=0, lead=5)
    assert calls[:6] == [("a", 1)] * 3 + [("b", 1)] * 3
    measured = [name for name, count in calls[6:] if count == 1]
    assert measured == ["a", "b", "b", "a", "a", "b"]
    assert [count for _, count in calls[6:]] == [5, 1] * 6
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}


def test_a_work_that_does_more_than_was_asked_is_timed_by_what_it_did(monkeypatch):
    clock = iter(np.arange(0, 1000, 8.0))
    monkeypatch.setattr(benchmark_measure.time, "perf_counter", lambda: next(clock))
    asked = []

    def epochs_of_16(count):
        asked.append(count)
        return -(-count // 16) * 16

    times = benchmark_measure.alternate({"scan": epochs_of_16}, rounds=2, seconds=20)
    assert asked == [1, 1, 1, 40, 40]  # 16 in 8 s: 40 in 20 s
    assert times == {"scan": [8 / 48, 8 / 48]}


def test_ratios_are_taken_round_by_round_with_the_fastest_of_the_others():
    found = benchmark_measure.ratios([1.0, 2.0, 1.0], [2.0, 8.0, 5.0], [3.0, 4.0, 6.0])
    assert found == {"median": 2.0, "min": 2.0, "max": 5.0, "n": 3}


def test_latency_counts_every_call():
    each = benchmark_measure.alternate_calls({"a": lambda: None, "b": lambda: None}, rounds=3, count=4)
    assert [len(calls) for calls in each["a"]] == [4, 4, 4] == [len(calls) for calls in each["b"]]


def test_the_line_through_costs():
    sizes = np.array([8, 16, 32, 64])
    found = benchmark_measure.fit_line(sizes, 0.5 + 0.25 * sizes)
    assert found["fixed"] == pytest.approx(0.5)
    assert found["slope"] == pytest.approx(0.25)
    assert found["largest_deviation"] == pytest.approx(0, abs=1e-9)
    assert benchmark_measure.fit_line(sizes, 3 * sizes**1.5)["exponent"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("kind", "dtype", "tflops"),
    [
        ("NVIDIA H200", "bfloat16", 989.5),
        ("NVIDIA H100 80GB HBM3", "float32", 494.5),
        ("NVIDIA H100 PCIe", "bfloat16", 756),
        ("NVIDIA A100-SXM4-40GB", "bfloat16", 312),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bfloat16", None),
        ("Tesla T4", "float32", 8.1),
        ("Tesla T4", "bfloat16", None),
        ("Tesla V100-SXM2-16GB", "float32", 15.7),
        ("NVIDIA L4", "bfloat16", 121),
        ("NVIDIA L40S", "bfloat16", None),
        ("NVIDIA B200", "float32", 1125),
        ("cpu", "float32", None),
    ],
)
def test_peaks_by_the_name_of_the_device(kind, dtype, tflops):
    assert benchmark_measure.known_peak(kind, dtype) == (None if tflops is None else 1e12 * tflops)


def test_compiling_anew_leaves_the_cache_as_it_was():
    folder = jax.config.jax_compilation_cache_dir
    compiled, seconds = benchmark_measure.compile_anew(jax.jit(lambda x: x @ x + 1).lower(jnp.ones((4, 4))))
    assert seconds > 0
    assert jax.config.jax_compilation_cache_dir == folder
    assert benchmark_measure.program_bytes(compiled) >= 2 * 4 * 16


@pytest.mark.usefixtures("tiny_configs")
def test_train_and_infer_give_a_row_for_each_model_and_dtype_and_write_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(benchmark_measure._PRODUCT_SIDE, "cpu", 512)
    benchmark_measure.peak_flops.cache_clear()
    rows = bench("--suite", "train", "infer", "--dtypes", "float32", f"--output={tmp_path / 'rows.json'}")
    benchmark_measure.peak_flops.cache_clear()
    trained, inferred = rows
    for row in rows:
        assert (row["model"], row["dtype"], row["batch"]) == ("deep", "float32", 16)
        assert is_spread(row["images_per_second"])
        assert row["program_bytes"] > 1000
        assert row["peak_source"] == "matmul"
        assert 0 < row["mfu"] < 1.5  # of a product on the same cores
        assert "against" not in row
    assert is_spread(trained["epoch_images_per_second"])
    assert trained["flops_per_image"] == 3 * inferred["flops_per_image"]
    assert inferred["latency"]["calls"] >= 200
    assert inferred["latency"]["median_ms"] <= inferred["latency"]["p95_ms"]
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["rows"] == rows
    assert written["environment"]["cores"] > 0
    assert written["options"]["suite"] == ["train", "infer"]
    table = capsys.readouterr().out.splitlines()
    assert table[2].startswith("train")
    assert table[3].split()[:3] == ["model", "dtype", "batch"]
    assert table[4].split()[:3] == ["deep", "float32", "16"]


def test_input_measures_each_way_to_the_device(tiny_configs, raw):
    rows = bench("--suite", "input", "--dataset", "fer2013", f"--data_dir={raw}", "--batch", "16")
    assert [row["what"] for row in rows] == [
        "device-resident",
        "streamed",
        "read and decoded, one thread",
        "read, one thread",
        "decoded, one thread",
        "augmentation of deep: brightness, flip, shift",
    ]
    assert all(is_spread(row["images_per_second"]) for row in rows)


@pytest.mark.slow
def test_end_to_end_sets_epochs_and_runs_beside_the_step(tiny_configs, raw, monkeypatch):
    monkeypatch.setattr(benchmark_run, "first_steps", lambda *_: iter(()))  # processes: the slow test
    arguments = ("--suite", "end_to_end", "--dataset", "fer2013", f"--data_dir={raw}", "--epochs", "2")
    rows = bench(*arguments, "--images", "48")
    assert [row["what"] for row in rows] == ["epoch, device", "epoch, stream", "run of 2 epochs"]
    for row in rows:
        assert row["images"] == 48
        assert is_spread(row["share_of_step"])
        assert is_spread(row["images_per_second"])
        assert is_spread(row["step_images_per_second"])


def test_a_part_of_a_data_set_keeps_the_proportions_of_its_splits(raw):
    from fer_jax.data import prepare

    dataset = prepare.load("fer2013", data_dir=raw)
    part = benchmark_run.first_part(dataset, 0.5)
    assert part.splits == {split: round(size / 2) for split, size in dataset.splits.items()}
    whole = dataset.arrays("train")
    np.testing.assert_array_equal(part.arrays("train")["image"], whole["image"][: part.splits["train"]])


@pytest.mark.slow
def test_the_first_step_of_a_process_is_timed_with_a_cold_and_a_warm_cache(tiny_configs, raw):
    chosen = settings(dataset="fer2013", data_dir=str(raw))
    cold, warm = benchmark_run.first_steps("deep", benchmark_run.build("deep", chosen), chosen)
    for row, label in ((cold, "cold"), (warm, "warm")):
        assert row["what"] == f"first step, {label} cache"
        assert 0 < row["seconds_to_first_step"] < row["seconds_from_start"]


@pytest.mark.slow
def test_a_process_that_fails_before_its_first_step_says_why(tiny_configs, raw):
    chosen = settings(dataset="fer2013", data_dir=str(raw))
    experiment = benchmark_run.build("deep", chosen)
    elsewhere = settings(dataset="fer2013", data_dir=str(raw / "missing"))
    with pytest.raises(ValueError, match=r"did not come to its first step .*error: .*missing"):
        next(benchmark_run.first_steps("deep", experiment, elsewhere))


@pytest.mark.usefixtures("tiny_configs")
def test_scaling_measures_three_axes_and_draws_them(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_scaling, "EPOCHS", (1, 2))
    monkeypatch.setattr(benchmark_scaling, "BATCHES", (0.5, 0.7, 1))
    monkeypatch.setattr(benchmark_scaling, "MEMBERS", (1, 2))
    rows = bench("--suite", "scaling", f"--figure={tmp_path / 'scaling.png'}")
    assert [(row["axis"], row["sizes"]) for row in rows] == [
        ("images", [16, 32]),
        ("batch", [8, 16]),  # 11 cannot be divided among the eight devices
        ("members", [1, 2]),
    ]
    for row in rows:
        assert all(is_spread(each) for each in row["seconds"])
        assert np.isfinite([row["exponent"], row["slope"], row["fixed"]]).all()
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "deap"], "unknown config 'deap'. Did you mean 'deep'?"),
        (["--models", "deep", "--batch", "12"], "train.batch_size = 12 cannot be divided among 8 devices"),
        (["--output", "nowhere/x.json"], "--output=nowhere/x.json: there is no folder"),
        (["--suite", "scaling", "--figure", "nowhere/x.png"], "--figure=nowhere/x.png: there is no folder"),
        (["--figure", "x.png"], "--figure is the picture of --suite=scaling"),
        (["--figure", "x.foo", "--suite", "scaling"], "--figure=x.foo: name it *.png"),
        (["--output", "."], "--output=. is a folder: name a file"),
        (["--suite", "train", "input", "--dataset", "nothing"], "unknown data set 'nothing'"),
        (["--suite", "train", "input", "--dataset", "fer2013", "--data_dir", "nowhere"], "nowhere does not exist"),
    ],
)
@pytest.mark.usefixtures("tiny_configs")
def test_wrong_input_is_answered_in_one_line(arguments, message, monkeypatch):
    """And before anything is measured."""
    monkeypatch.setattr(benchmark_models, "alternate", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--suite", "train", "--models", "deep", *arguments])
    assert str(stop.value).startswith("error: ")
    assert message in str(stop.value)
    assert "\n" not in str(stop.value)


@pytest.mark.usefixtures("tiny_configs")
def test_too_little_memory_is_answered_in_one_line(monkeypatch):
    def alternate(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(benchmark_models, "alternate", alternate)
    told = r"memory does not hold the network, its data and a batch: choose a smaller --batch.*RESOURCE_EXHAUSTED"
    with pytest.raises(SystemExit, match=told):
        benchmark.main(["--suite", "train", "--models", "deep"])


def test_without_a_checkout_the_command_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark_models, "CONFIGS", tmp_path / "configs")
    with pytest.raises(ValueError, match=r"the configs of a checkout, and there is no .*configs"):
        bench("--suite", "train")


@pytest.mark.parametrize(
    ("missing", "message"), [("torch", "pip install torch"), ("tests.benchmarks", "part of a checkout")]
)
def test_without_pytorch_or_its_side_the_command_says_what_to_do(monkeypatch, missing, message):
    monkeypatch.delitem(sys.modules, "tests.benchmarks.torch_side", raising=False)
    monkeypatch.delitem(sys.modules, "tests.torch_nets", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=f"error: --against=torch needs .*{message}"):
        benchmark.main(["--against=torch"])


class TestPyTorch:
    """The two sides do the same work."""

    @pytest.fixture(autouse=True)
    def side(self):
        pytest.importorskip("torch", reason="the other side is PyTorch, which is not installed")
        from tests.benchmarks import torch_side

        return torch_side

    @pytest.mark.usefixtures("tiny_configs")
    def test_rows_hold_both_sides_and_their_ratios(self, side, monkeypatch):
        monkeypatch.setattr(side, "forms", lambda *_, **__: ["eager"])  # compiling takes minutes on a busy machine
        trained, inferred = bench("--suite", "train", "infer", "--against=torch")
        for row in (trained, inferred):
            assert set(row["against"]["images_per_second"]) == {"eager"}
            assert is_spread(row["against"]["images_per_second"]["eager"])
            assert is_spread(row["against"]["ratio"])
        assert is_spread(trained["against"]["epoch_ratio"])
        assert is_spread(inferred["against"]["latency_ratio"])
        assert inferred["against"]["latency"]["eager"]["calls"] >= 200

    @pytest.mark.usefixtures("tiny_configs")
    @pytest.mark.parametrize(("optimizer", "normalizer"), [("sgd", "mean_image"), ("adam", "per_image")])
    def test_training_without_chance_takes_the_same_steps(self, side, optimizer, normalizer, monkeypatch):
        from fer_jax import config as config_lib

        config = benchmark_models.config_of("deep", settings(), dtype="float32")
        still = {"augment.flip": 0.0, "augment.shift": 0.0, "augment.brightness": 0.0, "optim.name": optimizer}
        still |= {"model.options.dropout": (0.0, 0.0), "optim.learning_rate": 1e-3, "data.normalization": normalizer}
        experiment = benchmark_models.random_experiment(config_lib.overridden(config, still), images=64)
        state, key = fresh_state(experiment)
        theirs = side.Training(experiment, state.variables, "eager", side.torch.device("cpu"))
        steps = train.training_steps(
            state,
            experiment.splits["train"],
            experiment.order,
            key,
            experiment.hyperparameters,
            recipe=experiment.recipe,
            mesh=experiment.mesh,
            stop=4,
        )
        ours = [float(metrics["loss"]) for _, metrics in steps]
        losses = [float(theirs._update(*theirs._batch(step))) for step in range(4)]
        np.testing.assert_allclose(ours, losses, rtol=2e-3)
        assert len({round(loss, 3) for loss in losses}) > 1

    @pytest.mark.usefixtures("tiny_configs")
    @pytest.mark.parametrize("model", sorted(OPTIONS))
    def test_inference_gives_the_same_probabilities(self, side, model):
        config = benchmark_models.config_of(model, settings(), dtype="float32")
        experiment = benchmark_models.random_experiment(config, images=16)
        net = benchmark_models.recognizer(experiment)
        rng = np.random.default_rng(1)
        shaken = jax.tree.map(
            lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), net.variables["params"]
        )
        net.variables["params"] = shaken
        theirs = side.Inference(
            experiment, net, np.asarray(experiment.splits["train"].arrays["image"]), "eager", side.torch.device("cpu")
        )
        ours = net.predict(np.asarray(experiment.splits["train"].arrays["image"])).probabilities
        np.testing.assert_allclose(theirs.answer(), ours, atol=1e-5)
        assert ours.std(0).max() > 1e-4

    def test_the_augmentation_mirrors_moves_and_brightens(self, side):
        import torch

        images = torch.randint(0, 256, (8, 12, 10, 3), dtype=torch.uint8)
        mirrored = side.augment(images, {"flip": 1.0})
        torch.testing.assert_close(mirrored, images.flip(2).float(), atol=1e-3, rtol=0)
        moved = side.augment(images, {"shift": 0.2}).numpy()
        plain = images.float().numpy()
        for image, result in zip(plain, moved, strict=True):
            padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
            candidates = [padded[i : i + 12, j : j + 10] for i in range(5) for j in range(5)]
            assert min(np.abs(result - candidate).max() for candidate in candidates) < 1e-2
        factors = side.augment(torch.full_like(images, 100), {"brightness": 0.2}).flatten(1) / 100
        assert 0.8 <= factors.min() <= factors.max() <= 1.2
        assert factors.std(1).max() < 1e-6 < factors[:, 0].std()

    @pytest.mark.usefixtures("tiny_configs")
    def test_what_has_no_counterpart_is_refused(self, side, monkeypatch):
        from fer_jax import config as config_lib

        config = benchmark_models.config_of("deep", settings())
        side.refuse(config, training=True)
        for field, value, what in (
            ("augment.rotate", 10.0, "augmentation but flip, shift and brightness"),
            ("head.name", "intensity", "a head but softmax"),
            ("train.ema_decay", 0.9, "train.ema_decay"),
        ):
            other = config_lib.overridden(config, {field: value})
            side.refuse(other, training=False)
            with pytest.raises(ValueError, match=f"no counterpart of {what}"):
                side.refuse(other, training=True)
        (benchmark_models.CONFIGS / "shallow.py").write_text(TINY.format(model="shallow", options={}))
        monkeypatch.setattr(benchmark_models, "alternate", lambda *_, **__: pytest.fail("it was measured"))
        with pytest.raises(SystemExit, match="has no counterpart of the model shallow; it knows mini_xception"):
            benchmark.main(["--suite", "infer", "--models", "deep", "shallow", "--against=torch"])

    def test_two_devices_are_not_compared(self, side, monkeypatch):
        monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
        with pytest.raises(ValueError, match=r"on one device, and JAX has the tpu, PyTorch the [cg]pu"):
            side.refuse(benchmark_models.config_of("deep", settings()), training=False)
