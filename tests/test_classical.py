"""The classical baselines: features of known size, and better than chance on drawn faces."""

import types

import numpy as np
import pytest

from fer_jax import classical
from fer_jax.data import prepare
from tests import miniatures

pytest.importorskip("skimage", reason="scikit-image is not installed")


def test_features_have_the_papers_sizes():
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 1), dtype=np.uint8)
    assert classical.extract(images, "hog").shape == (2, 5 * 5 * 4 * 8)
    lbp = classical.extract(images, "lbp")
    assert lbp.shape == (2, 36 * 59)
    np.testing.assert_allclose(lbp.reshape(2, 36, 59).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("features", ["hog", "lbp"])
def test_both_learn_from_synthetic_faces(features, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path))
    prepare.load("synthetic", variant="small")
    classical.main([f"--features={features}", "--dataset=synthetic", "--variant=small"])
    printed = capsys.readouterr().out
    assert "test, 80 images" in printed
    assert float(printed.rsplit(" ", 1)[1].rstrip("%\n")) > 30  # chance is 14


def test_data_without_a_split_to_evaluate_on_are_refused(tmp_path, cache, capsys):
    root = miniatures.write_csv(tmp_path / "raw", ("split",))
    table = root / "mine.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *(f"{row.rsplit(',', 1)[0]},train" for row in rows)]))
    with pytest.raises(SystemExit, match=r"csv has the splits train: it takes one to train and one to evaluate"):
        classical.main(["--dataset=csv", f"--data_dir={root}"])


def test_a_wrong_data_set_is_one_line(capsys):
    with pytest.raises(SystemExit, match="error: unknown data set"):
        classical.main(["--dataset=fer"])


def test_the_strength_of_a_classical_baseline_is_chosen_on_validation(monkeypatch):
    scores = {"validation": (0.3, 0.2, 0.5), "test": (0.1, 0.9, 0.4)}  # by classical.STRENGTHS

    def fit(features, _labels, strength):
        assert features == "train"
        return types.SimpleNamespace(score=lambda of, _: scores[of][classical.STRENGTHS.index(strength)])

    def dataset(*splits):
        return types.SimpleNamespace(
            name="x",
            splits=dict.fromkeys(splits, 1),
            reported_split=splits[-1],
            arrays=lambda split: {"image": split, "label": None},
        )

    monkeypatch.setattr(classical, "extract", lambda images, name: images)
    monkeypatch.setattr(classical, "fit", fit)
    assert classical.run(dataset("train", "validation", "test"), "hog") == ("test", 0.4, 0.1)
    assert classical.run(dataset("train", "validation"), "hog") == ("validation", 0.2, 0.01)
