"""Configs: every file is valid, overrides and refusals, and the command line's answers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fer_jax import config as config_lib
from fer_jax import models, run
from fer_jax.data.emotions import BASIC7, canonical, relabel, remap
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
RECIPES = sorted((ROOT / "configs/recipes").glob("*.py"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("dataset", ["", "fer2013", "ferplus"])
def test_every_recipe_is_valid(path, dataset):
    config = load(path).get_config(dataset)
    config_lib.validate(config)
    assert config.is_locked
    models.create(config.model.name, num_outputs=7, **config_lib.model_options(config))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("dataset", ["", "fer2013", "ferplus"])
def test_every_config_is_valid_for_every_data_set(path, dataset):
    config = load(path).get_config(dataset)
    config_lib.validate(config)
    assert config.is_locked
    assert config.data.name == (dataset or config.data.name)
    assert config.data.variant == ("majority" if dataset == "ferplus" else "")
    models.create(config.model.name, num_outputs=7, **config_lib.model_options(config))
    assert config.keys() == config_lib.default_config().keys()


def test_the_cmu_networks_divide_affectnet_as_their_paper_does():
    for path in (*CONFIGS, ROOT / "configs/ablations/cmu.py"):
        expected = "80_10_10" if path.stem in ("baseline5", "resnet18", "cmu") else ""
        assert load(path).get_config("affectnet").data.variant == expected, path


def test_every_model_has_a_config_of_its_name():
    assert {load(path).get_config().model.name for path in CONFIGS if path.stem in models.MODELS} == set(models.MODELS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_where_it_comes_from_and_how_to_run_it(path):
    docstring = load(path).__doc__
    assert "Paper" in docstring
    assert f"--config=configs/{path.name}" in docstring


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("train.batch_size", 0, r"train\.batch_size = 0 must be above 0"),
        ("augment.flip", 1.5, r"augment\.flip = 1\.5 must lie in 0\.\.1"),
        ("train.epochs", 0, r"train\.epochs = 0 must be above 0"),
        ("train.log_every", 0, r"train\.log_every = 0 must be above 0"),
        ("eval.batch_size", 0, r"eval\.batch_size = 0 must be above 0"),
        ("optim.learning_rate", 0.0, r"optim\.learning_rate = 0\.0 must be above 0"),
        ("optim.warmup_epochs", -1.0, r"optim\.warmup_epochs = -1\.0 must be 0 or above"),
        ("optim.clip_norm", -1.0, r"optim\.clip_norm = -1\.0 must be 0 or above"),
        ("train.keep_every", -1, r"train\.keep_every = -1 must be 0 or above"),
        ("augment.rotate", -1.0, r"augment\.rotate = -1\.0 must be 0 or above"),
        ("augment.mixup", -1.0, r"augment\.mixup = -1\.0 must be 0 or above"),
        ("train.ema_decay", 1.5, r"train\.ema_decay = 1\.5 must lie in 0\.\.1"),
        ("train.saving_share", -0.5, r"train\.saving_share = -0\.5 must lie in 0\.\.1"),
        ("eval.variants", 2.0, r"eval\.variants = 2\.0 must lie in 0\.\.1"),
        ("data.sampling", "even", r"data\.sampling = 'even' is unknown: use one of uniform, balanced"),
        ("augment.scale", 1.0, r"augment\.scale = 1\.0 must lie in 0\.\.1, below 1"),
        ("model.input_shape", ("a", 48, 1), r"model\.input_shape = \('a', 48, 1\) must be \(height, width"),
        ("data.residence", "disk", r"data\.residence = 'disk' is unknown: use one of auto, device, stream"),
        ("data.normalization", "zscore", r"unit, symmetric, per_channel, mean_image, per_image"),
        ("model.dtype", "float16", r"auto, float32, bfloat16"),
        ("model.input_shape", (48, 48, 2), r"channels 1 or 3"),
        ("data.limit", -1, r"data\.limit = -1 must be 0 \(all\) or above"),
        ("data.fold_by", "picture", r"data\.fold_by = 'picture' is unknown: use one of subject, image"),
        ("train.smaller_first", (32,), r"must be pairs \(epochs, pixels\), e\.g\. \(\(10, 32\)"),
        ("train.smaller_first", ((2, 0),), r"\(\(2, 0\),\) must be pairs \(epochs, pixels\)"),
        ("train.smaller_first", ((2, 128),), r"128 pixels are not smaller than model\.input_shape = \(128, 128, 3\)"),
        ("train.smaller_first", ((8, 32), (2, 48)), r"leaves none of the 10 epochs \(train\.epochs\)"),
        ("optim.momentum", 1.5, r"optim\.momentum = 1\.5 must lie in 0\.\.1, below 1"),
        ("optim.weight_decay", -1.0, r"optim\.weight_decay = -1\.0 must be 0 or above"),
        ("optim.schedule", "step", r"wants optim\.decay_epochs, e\.g\. --config\.optim\.decay_epochs='\(15, 25\)'"),
        ("optim.decay_epochs", (-1, 5), r"optim\.decay_epochs = \(-1, 5\) must be numbers above 0"),
        ("data.emotions", (0, 3), r"data\.emotions = \(0, 3\) must be names: "),
        ("data.workers", -1, r"data\.workers = -1 must be 0 or above"),
        ("model.options.dropout", None, r"model\.options\.dropout = None must lie in 0\.\.1, below 1"),
        ("model.options.dropout", (1.0, 0.5), r"model\.options\.dropout = 1\.0 must lie in 0\.\.1, below 1"),
        (
            "head.class_weights",
            "inverted",
            r"head\.class_weights = 'inverted' is unknown: use one of none, inverse, eff",
        ),
        ("head.class_weight_power", -1.0, r"head\.class_weight_power = -1\.0 must be 0 or above"),
        # As a config file may say it, before it locks the fields.
        (
            "optim.learning_rat",
            0.1,
            r"unknown config field 'optim\.learning_rat'\. Did you mean 'optim\.learning_rate'",
        ),
        ("data.align", "eyes", r"data\.align = 'eyes' is unknown: use one of '', none, rotation, landmarks"),
    ],
)
def test_values_out_of_range_are_refused_by_name(field, value, message):
    config = config_lib.default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        config_lib.validate(config)


def test_epochs_of_decay_are_numbers():
    config = config_lib.default_config()
    config.optim.schedule, config.optim.decay_epochs = "step", ("a",)
    with pytest.raises(UserError, match=r"optim\.decay_epochs = \('a',\) must be numbers above 0"):
        config_lib.validate(config)


def test_smoothing_where_the_loss_knows_none_is_refused():
    config = config_lib.default_config()
    config.head.loss, config.head.label_smoothing = "squared_hinge", 0.1
    with pytest.raises(UserError, match=r"head\.label_smoothing is none of head\.loss = 'squared_hinge'"):
        config_lib.validate(config)


def test_a_teachers_share_beyond_all_is_refused():
    config = config_lib.default_config()
    config.head.teacher_share = 1.5
    with pytest.raises(UserError, match=r"head\.teacher_share = 1\.5 must lie in 0\.\.1"):
        config_lib.validate(config)


def test_a_share_of_the_label_where_no_intensities_share_is_refused():
    config = config_lib.default_config()
    config.head.label_share = 0.5
    with pytest.raises(UserError, match=r"head\.label_share is of .* head\.loss = 'soft' alone: set it to 0"):
        config_lib.validate(config)


def test_too_small_images_and_unknown_names_are_refused_before_training(tmp_path, cache):
    data = write_fer2013(tmp_path / "raw")
    for field, value, message in (
        ("model.input_shape", (16, 16, 1), r"model\.input_shape = \(16, 16, 1\) is too small: at least 24 pixels"),
        ("model.name", "shalow", r"unknown model 'shalow'\. Did you mean 'shallow'"),
        ("data.name", "affectnet9", r"unknown data set 'affectnet9'.* Known: synthetic, fer2013, ferplus"),
        ("head.name", "intensities", r"head\.name = 'intensities' is unknown"),
        ("optim.name", "adamm", r"optim\.name = 'adamm' is unknown"),
        ("train.batch_size", 72_000, r"70 examples, fewer than one batch of 72000"),
    ):
        config = tiny_config.get_config()
        config.train.batch_size = config.eval.batch_size = 8
        with config.unlocked():
            config.update_from_flattened_dict({field: value})
        with pytest.raises(UserError, match=message):
            run.build(config, str(data))


def test_fields_that_a_run_did_not_know_yet_have_their_defaults():
    stored = json.loads(json.dumps(config_lib.default_config().to_dict()))
    del stored["data"]["limit"], stored["augment"]
    stored["seed"], stored["model"]["options"] = 3, {"dropout": 0.1}
    completed = config_lib.completed(stored)
    assert completed["data"]["limit"] == 0
    assert completed["augment"] == config_lib.default_config().augment.to_dict()
    assert completed["seed"] == 3
    assert completed["model"]["options"] == {"dropout": 0.1}
    assert set(completed) == set(config_lib.default_config().keys())


def test_differences_are_named_field_by_field():
    before = {"a": {"b": 1, "c": 2}, "d": 3}
    after = {"a": {"b": 1, "c": 5}, "e": 4}
    assert config_lib.difference(before, after) == ["a.c: 2 -> 5", "d: 3 -> (absent)", "e: (absent) -> 4"]


def test_the_default_run_directory_names_the_config():
    path = config_lib.default_workdir("configs/mini_xception.py:fer2013", "20261121-120000")
    assert str(path) == "runs/mini_xception-fer2013-20261121-120000"


def test_emotions_go_by_name():
    assert canonical(" Happiness ") == "happy"
    with pytest.raises(ValueError, match="unknown emotion 'bored'; known: angry"):
        canonical("bored")
    assert remap(("sad", "angry"), BASIC7).tolist() == [4, 0]
    with pytest.raises(ValueError, match=r"\['contempt'\] are not among"):
        remap(("contempt",), BASIC7)


def test_labels_go_by_name_and_those_without_an_emotion_stay_so():
    labels = np.array([[0, 1], [2, -1]])
    np.testing.assert_array_equal(relabel(labels, ("sad", "contempt", "angry"), BASIC7), [[4, -1], [0, -1]])


def command(*arguments):
    environment = os.environ | {"XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-m", "fer_jax.main", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config=configs/shallow.py", "--config.optim.learning_rat=0.1"],
            "unknown field of config.optim 'learning_rat'. Did you mean 'learning_rate'?",
        ),
        (
            ["--config=configs/shallow.py", "--config.optm.learning_rate=0.1"],
            "unknown config field 'optm.learning_rate'. Did you mean 'optim.learning_rate'? Known: optim.learning_rate",
        ),
        (["--config=configs/shallow.py", "--config.epochs=5"], "'epochs'. Did you mean 'train.epochs'?"),
        (
            ["--config=configs/shallow.py", "--config.optim.lr=1"],
            "unknown field of config.optim 'lr'. Known: clip_norm, decay_epochs",
        ),
        (
            ["--config=configs/shallow.py", "--config.optim=adam"],
            "--config.optim has several fields: set one of them, e.g. --config.optim.name=...",
        ),
        (
            ["--config=configs/mini_xception.py", "--config.model.options.dropout=0.3"],
            "give all at once, e.g. --config.model.options=\"{'dropout': ...}\"",
        ),
        (
            ["--config=configs/mini_xception.py", "--config.model.options.seperable=False"],
            "the config sets no option 'seperable' of its model: did you mean 'separable'?",
        ),
        (["--config=configs/deep.py", "--config.model.options.separable=True", "--x=1"], "command line flag 'x'"),
        (
            ["--config=configs/deep.py", "--config.model.options={}", "--config.train.epochs=abc"],
            "invalid literal for int() with base 10: 'abc'",
        ),
        (
            [
                *("--config=configs/deep.py", "--config.model.options.separable=True"),
                "--config.model.options.kernels=3",
            ],
            "--config.model.options.kernels changes only an option that the config file sets",
        ),
        (["--config=configs/resnet18.py", "--data_dir=raw"], "nothing would be read in --data_dir=raw: leave it out"),
        (["--config="], "which config? e.g. --config=configs/vggs_small.py"),
        (["--config=shallow"], "unknown config file 'shallow'. Known: configs/shallow.py"),
        (["--config=configs"], "unknown config file 'configs'. Did you mean 'configs/"),
        (
            ["--config=/nowhere/shallow.py"],
            "unknown config file '/nowhere/shallow.py'. Did you mean 'configs/shallow.py'?",
        ),
        (
            ["--config=configs/shalow.py"],
            "'configs/shalow.py'. Did you mean 'configs/shallow.py'? Known: configs/",
        ),
        (
            ["--config", "configs/shalow.py:fer2013", "--config.train.epochs=5"],
            "'configs/shalow.py'. Did you mean 'configs/shallow.py'? Known: configs/",
        ),
        (
            ["--config=configs/shallow.py", "--config.optim.learning-rate=0.1"],
            "--config.optim.learning-rate names no field: write _ for -",
        ),
        ([], "which config?"),
        (["--config=configs/shallow.py", "--confg=1"], "Unknown command line flag 'confg'"),
        (["--config=configs/shallow.py", "extra"], "unexpected arguments ['extra']"),
        (["--config=configs/shallow.py", "--config.train.epochs=many"], "train.epochs"),
        (["--config=configs/shallow.py"], "fer2013 needs --data_dir=PATH"),
    ],
)
def test_a_wrong_command_line_is_answered_in_a_line_or_two(arguments, message, tmp_path, monkeypatch):
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path))
    result = command(*arguments, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("error:")


@pytest.mark.parametrize("module", ["main", "sweep"])
def test_a_run_needs_no_name(module, tmp_path, monkeypatch):
    """It gets as far as its data, in a folder that is named after its config."""
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / "cache"))
    arguments = [sys.executable, "-m", f"fer_jax.{module}", f"--config={ROOT}/configs/shallow.py"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert "error: fer2013 needs --data_dir=PATH" in result.stderr
    assert "Traceback" not in result.stderr
    made = [path.name for path in (tmp_path / "runs").glob("*")]
    assert all(name.startswith("shallow-") for name in made)
    assert len(made) == (module == "main")  # a sweep looks at its data first


def test_help_imports_no_jax():
    code = (
        "import sys, fer_jax.main as main\n"
        "from fer_jax import command_line\n"
        "sys.argv = ['fer_jax.main', '--help']\n"
        "try: command_line.entry(main.main)\n"
        "except SystemExit: pass\n"
        "assert 'jax' not in sys.modules, 'JAX was imported'\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--data_dir" in result.stdout


def test_the_package_itself_imports_nothing_heavy():
    code = (
        "import sys, fer_jax; assert not {'jax', 'numpy', 'cv2', 'flax'} & set(sys.modules); print(fer_jax.__version__)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
