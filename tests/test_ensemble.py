"""Averages over networks and views: what is shown, and what is said of members that have seen the images."""

import jax.numpy as jnp
import numpy as np

from fer_jax import ensemble, report, run
from tests import tiny_config
from tests.faces import write_fer2013


def test_ten_crops_are_the_corners_the_centre_and_their_mirror_images():
    image = np.arange(48 * 48).reshape(1, 48, 48, 1)
    crops = np.asarray(ensemble.ten_crops(jnp.asarray(image)))
    assert crops.shape == (10, 1, 40, 40, 1)
    for crop, (top, left) in zip(crops, ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)), strict=False):
        np.testing.assert_array_equal(crop, image[:, top : top + 40, left : left + 40])
    np.testing.assert_array_equal(crops[5:], crops[:5, :, :, ::-1])


def test_a_member_of_an_ensemble_that_was_trained_on_the_images_is_told(tmp_path, cache, capsys):
    """As of two folds: each was trained on what the other is scored on."""
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
