"""Trained networks asked again: the answers of the run that made them, and ensembles of them."""

import json

import numpy as np
import pytest

from fer_jax import ensemble, recognizer, run
from fer_jax.data import prepare
from fer_jax.errors import UserError
from tests import tiny_config
from tests.faces import write_fer2013


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two seeds on the same tiny data: (run directories, raw data)."""
    folder = tmp_path_factory.mktemp("runs")
    raw = write_fer2013(folder / "raw", train=112)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(folder / "cache"))
        for seed in (0, 1):
            config = tiny_config.get_config()
            config.seed, config.train.epochs, config.train.batch_size, config.eval.batch_size = seed, 2, 16, 16
            run.run(config, folder / f"run{seed}", data_dir=str(raw))
        yield [folder / "run0", folder / "run1"], raw


def test_a_loaded_network_answers_as_its_run_did(runs):
    workdirs, raw = runs
    for workdir in workdirs:
        loaded = recognizer.load(workdir)
        arrays = prepare.load("fer2013", data_dir=raw).arrays("test")
        predicted = loaded.predict(arrays["image"], batch_size=8).probabilities.argmax(1)
        results = json.loads((workdir / "results.json").read_text())
        assert (predicted == arrays["label"]).mean() == pytest.approx(results["metrics"]["accuracy"])
        one, all_ = loaded.predict(arrays["image"][3:4]), loaded.predict(arrays["image"])
        np.testing.assert_allclose(one.probabilities, all_.probabilities[3:4], atol=1e-5)
        np.testing.assert_allclose(one.intensities, all_.intensities[3:4], atol=1e-5)
        assert one.names == [loaded.emotions[predicted[3]]]
        none = loaded.predict(arrays["image"][:0])
        assert none.probabilities.shape == (0, 7)
        assert none.intensities.shape == (0, 6)


def test_an_ensemble_is_the_mean_of_its_members(runs):
    workdirs, raw = runs
    members = [recognizer.load(workdir) for workdir in workdirs]
    images = prepare.load("fer2013", data_dir=raw).arrays("test")["image"]
    mean = ensemble.mean_probabilities(members, images, members[0].emotions)
    expected = np.mean([member.predict(images).probabilities for member in members], axis=0)
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    backwards = members[0].emotions[::-1]
    np.testing.assert_allclose(ensemble.mean_probabilities(members, images, backwards), expected[:, ::-1], atol=1e-6)
    with pytest.raises(UserError, match="a member knows"):
        ensemble.mean_probabilities(members, images, ("happy", "sad"))


def test_the_command_prints_a_row_for_each_member_and_one_for_the_mean(runs, capsys):
    workdirs, raw = runs
    ensemble.main([*map(str, workdirs), f"--data_dir={raw}"])
    printed = capsys.readouterr().out
    assert "21 images" in printed
    assert printed.count("%") == 3
    assert "mean of 2" in printed
    with pytest.raises(SystemExit, match=r"error: there are no weights at .*nowhere"):
        ensemble.main(["nowhere"])
