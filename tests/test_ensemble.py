"""Averages over networks and views: what is shown, and what is said of members that have seen the images."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fer_jax import ensemble, recognizer, report, run
from tests import tiny_config
from tests.faces import write_fer2013


def test_ten_crops_are_the_corners_the_centre_and_their_mirror_images():
    image = np.arange(48 * 48).reshape(1, 48, 48, 1)
    crops = np.asarray(ensemble.ten_crops(jnp.asarray(image)))
    assert crops.shape == (10, 1, 40, 40, 1)
    for crop, (top, left) in zip(crops, ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)), strict=False):
        np.testing.assert_array_equal(crop, image[:, top : top + 40, left : left + 40])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, :, ::-1])


def test_what_is_doubtful_of_a_member_of_an_ensemble_is_told(tmp_path, cache, capsys, caplog, monkeypatch):
    """As of two folds: each was trained on what the other is scored on. Or of faces that were aligned otherwise."""
    raw = write_fer2013(tmp_path / "raw", train=112)
    workdirs = []
    for fold in range(2):
        config = tiny_config.get_config()
        config.train.epochs, config.train.batch_size, config.eval.batch_size = 1, 16, 16
        config.data.folds, config.data.fold, config.data.fold_by = 2, fold, "image"
        workdirs.append(tmp_path / f"fold{fold}")
        run.run(config, workdirs[-1], data_dir=str(raw))
    asked = report.ask(workdirs[0], data_dir=raw, members=[workdirs[1]])
    why = f"{workdirs[1]} was trained or selected on 56 of these images"
    assert list(asked.optimistic.values()) == [why]
    assert report.findings(asked)["alternatives"][0]["optimistic"] == why
    ensemble.main([*map(str, workdirs), f"--data_dir={raw}", "--split=validation"])
    assert f"optimistic: {why}" in capsys.readouterr().out
    assert "aligned" not in caplog.text
    load = recognizer.load
    aligned = {workdirs[0]: "", workdirs[1]: "rotation"}
    monkeypatch.setattr(recognizer, "load", lambda run: dataclasses.replace(load(run), align=aligned[run]))
    told = f"{workdirs[1]} was trained on faces that were aligned by the method rotation, these are not aligned"
    report.ask(workdirs[0], data_dir=raw, members=[workdirs[1]])
    assert caplog.text.count(told) == 1
    ensemble.main([*map(str, workdirs), f"--data_dir={raw}", "--split=validation"])
    assert caplog.text.count(told) == 2
