"""Trained networks asked again: the answers of the run that made them, and ensembles of them."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fer_jax
from fer_jax import checkpoint, ensemble, heads, imaging, recognizer
from fer_jax.data import prepare
from fer_jax.data.emotions import BASIC7, CANONICAL
from fer_jax.errors import UserError
from tests.finished import finished_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of two seeds on the same tiny data: (run directories, raw data)."""
    with finished_runs(tmp_path_factory.mktemp("runs"), epochs=2, seeds=(0, 1)) as finished:
        yield finished


class Redness(nn.Module):
    """A network of images in colour, which sees in each how much redder than blue it is."""

    @nn.compact
    def __call__(self, inputs, *, train):
        red, blue = (inputs[..., channel].mean((1, 2)) for channel in (0, 2))
        return jnp.pad((red - blue)[:, None], ((0, 0), (0, 6)))


def test_a_network_of_grey_faces_is_shown_grey_ones(runs):
    loaded = recognizer.load(runs[0][0])
    assert loaded.grey  # FER2013's
    normalizer = {"normalizer": loaded.variables["normalizer"]}
    net = dataclasses.replace(loaded, model=Redness(), variables=normalizer, input_shape=(48, 48, 3))
    rng = np.random.default_rng(0)
    faces = (rng.integers(0, 200, (4, 48, 48, 1)) + np.array([50, 20, 0])).astype(np.uint8)
    np.testing.assert_allclose(net.predict(faces).probabilities, 1 / 7, atol=1e-4)
    assert dataclasses.replace(net, grey=False).predict(faces).probabilities[:, 0].min() > 1 / 7 + 0.01
    grey = imaging.to_input(jnp.asarray(faces), (48, 48, 1))
    np.testing.assert_allclose(net.to_input(jnp.asarray(faces)), imaging.to_input(grey, (48, 48, 3)), atol=1e-3)


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


def test_what_is_no_probability_is_told():
    probabilities = np.array([[0.2, 0.8], [np.nan, 1.0], [0.0, 0.0]], np.float32)
    assert recognizer.Prediction(probabilities, np.zeros((3, 1)), ("happy", "sad")).damaged.tolist() == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("head", ["classification", "intensity"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_told_every_time(runs, head, value):
    """XLA's softmax of NaN was even shares once in some hundred calls on a CPU, else NaN."""
    net = recognizer.load(runs[0][0])
    emotions = BASIC7 if head == "classification" else CANONICAL  # seven outputs
    params = jax.tree.map(lambda leaf: np.full_like(leaf, value), net.variables["params"])
    net = dataclasses.replace(
        net, head=heads.make_head(head, emotions), emotions=emotions, variables=net.variables | {"params": params}
    )
    faces = np.random.default_rng(0).integers(0, 256, (21, 48, 48, 1), dtype=np.uint8)
    for _ in range(50):
        answer = net.predict(faces)
        assert answer.damaged.all()
        assert np.isnan(answer.probabilities).all()
        assert np.isnan(answer.intensities).all()


def test_members_of_an_ensemble_answer_in_one_order_of_emotions(runs):
    workdirs, raw = runs
    members = [recognizer.load(workdir) for workdir in workdirs]
    images = prepare.load("fer2013", data_dir=raw).arrays("test")["image"]
    expected = members[0].predict(images).probabilities
    emotions, backwards = members[0].emotions, members[0].emotions[::-1]
    np.testing.assert_array_equal(ensemble.probabilities(members[0], workdirs[0], images, emotions), expected)
    np.testing.assert_array_equal(ensemble.probabilities(members[0], workdirs[0], images, backwards), expected[:, ::-1])
    turned = (*emotions[2:], *emotions[:2])
    found = ensemble.probabilities(members[0], workdirs[0], images, turned)
    np.testing.assert_array_equal(found, np.roll(expected, -2, 1))
    with pytest.raises(UserError, match=rf"the network of {workdirs[0]} knows .*, the images show happy, sad"):
        ensemble.probabilities(members[0], workdirs[0], images, ("happy", "sad"))


def test_the_command_prints_a_row_for_each_member_and_one_for_the_mean(runs, capsys):
    workdirs, raw = runs
    ensemble.main([*map(str, workdirs), f"--data_dir={raw}"])
    printed = capsys.readouterr().out
    assert "21 images" in printed
    assert printed.count("%") == 3
    arrays = prepare.load("fer2013", data_dir=raw).arrays("test")
    each = [recognizer.load(workdir).predict(arrays["image"]).probabilities for workdir in workdirs]
    right = (np.mean(each, 0).argmax(1) == arrays["label"]).mean()
    assert f"{right:7.2%}  mean of 2" in printed
    with pytest.raises(SystemExit, match=r"error: there are no weights at .*nowhere"):
        ensemble.main(["nowhere"])
    with pytest.raises(SystemExit, match=r"error: mini_xception_fer2013 is a network without its data"):
        ensemble.main(["mini_xception_fer2013"])


PACKAGED = sorted(checkpoint.PRETRAINED.glob("*.safetensors"))


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_weights_of_the_package_are_small_documented_and_answer(path):
    assert path.stat().st_size <= 300_000
    card = path.with_suffix(".md").read_text()
    assert f"configs/recipes/{path.stem}.py" in card
    for said in ("Data", "Protocol", "Limits", "Not to be used", "95 %"):
        assert f"{said}" in card, said
    loaded = fer_jax.load_pretrained(path.stem)
    faces = np.random.default_rng(0).integers(0, 256, (3, 60, 50, 3), np.uint8)
    prediction = loaded.predict(faces)
    np.testing.assert_allclose(prediction.probabilities.sum(1), 1, rtol=1e-5)
    assert prediction.probabilities.std() > 0.01


def test_variables_answer_alike_as_constants_and_as_arguments(monkeypatch):
    faces = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 1), np.uint8)
    expected = fer_jax.load_pretrained("mini_xception_fer2013").predict(faces)
    monkeypatch.setattr(recognizer, "SMALL", 0)
    network = fer_jax.load_pretrained("mini_xception_fer2013")
    assert not recognizer.is_small(network.variables)
    found = network.predict(faces)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.intensities, expected.intensities, atol=1e-6)
    found.probabilities[:] = 0  # the caller's own


@pytest.mark.parametrize(
    ("shape", "brightest", "message"),
    [
        ((3, 48, 48, 1), 0.5, "expected images uint8, or on 0..255: these lie in 0..1"),
        ((3, 48, 48), 255, r"expected images \[n, height, width, 1 or 3\], not \[3, 48, 48\]: one face is"),
        ((48, 48, 1), 255, r"not \[48, 48, 1\]"),
        ((3, 48, 48, 4), 255, r"not \[3, 48, 48, 4\]"),
    ],
)
def test_images_of_another_range_or_shape_are_refused(shape, brightest, message):
    network = fer_jax.load_pretrained("mini_xception_fer2013")
    with pytest.raises(UserError, match=message):
        network.predict(np.full(shape, brightest))
    assert network.predict([]).names == []
    white = np.full((1, 48, 48, 1), 255, np.float32)
    rounded = np.nextafter(white, 256)  # as of white images that were shrunk
    np.testing.assert_allclose(network.predict(rounded).probabilities, network.predict(white).probabilities, atol=1e-5)
    with pytest.raises(UserError, match=r"expected images uint8, or on 0..255: these uint16 lie in 0..65535"):
        network.predict(np.array([0, 65535] * 1152, np.uint16).reshape(1, 48, 48, 1))
    with pytest.raises(UserError, match=r"expected faces of one size, not 48x48x1, 50x48x1: crop them"):
        network.predict([np.zeros((48, 48, 1), np.uint8), np.zeros((50, 48, 1), np.uint8)])
    faces = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 1), np.uint8)
    as_floats = network.predict(faces.astype(np.float32))
    np.testing.assert_array_equal(as_floats.probabilities, network.predict(faces).probabilities)


def test_unknown_weights_are_refused_with_those_there_are():
    assert PACKAGED
    with pytest.raises(UserError, match=r"no weights at mini_xeption; those of the package are: mini_xception_fer2013"):
        fer_jax.load_pretrained("mini_xeption")


def test_weights_of_another_architecture_are_refused_by_name(runs, tmp_path):
    variables, metadata = checkpoint.load_weights(runs[0][0])
    metadata["model"] = metadata["model"] | {"options": {"filters": [8, 4], "hidden": [16]}}
    checkpoint.save_weights(tmp_path / "weights.safetensors", variables, metadata)
    with pytest.raises(UserError, match=r"as shallow: the weights are those of another model:\n  params/.*has shape"):
        recognizer.load(tmp_path)
    metadata["model"] = metadata["model"] | {"options": {"filters": [0, 4], "hidden": [16]}}
    checkpoint.save_weights(tmp_path / "weights.safetensors", variables, metadata)
    with pytest.raises(UserError, match=r"as shallow: .*an option is 0"):
        recognizer.load(tmp_path)
    metadata["model"] = fer_jax.checkpoint.load_weights("mini_xception_fer2013")[1]["model"]
    checkpoint.save_weights(tmp_path / "weights.safetensors", variables, metadata)
    with pytest.raises(UserError, match=r"another model:(\n  params/.*){6}\n  and \d+ more$"):
        recognizer.load(tmp_path)


@pytest.mark.slow  # prepares FER2013
def test_the_packages_network_scores_as_its_card_says(shared_data):
    arrays = prepare.load("fer2013", data_dir=shared_data / "fer2013").arrays("validation")
    predicted = fer_jax.load_pretrained("mini_xception_fer2013").predict(arrays["image"]).probabilities.argmax(1)
    assert f"{(predicted == arrays['label']).mean():.2%}" == "64.95%"
