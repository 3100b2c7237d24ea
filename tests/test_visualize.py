"""The pictures of what a network looks at: by the command, of splits, of files and of several runs."""

import dataclasses
import json
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import checkpoint, heads, models, recognizer, report_figures, visualize
from fer_jax.errors import UserError
from tests.faces import write_fer2013


@pytest.fixture(scope="module", params=["classification", "intensity"])
def workdir(request, tmp_path_factory):
    """A run directory of an untrained net, and its raw data."""
    folder = tmp_path_factory.mktemp(request.param)
    emotions = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    head = heads.make_head(request.param, emotions)
    options = {"filters": [8, 8], "hidden": [16]}
    model = models.create("shallow", num_outputs=head.num_outputs, filters=(8, 8), hidden=(16,))
    variables = dict(model.init(jax.random.key(0), jnp.zeros((1, 48, 48, 1)), train=False))
    variables["normalizer"] = {"mean": np.full(1, 127.5, np.float32), "scale": np.full(1, 1 / 127.5, np.float32)}
    metadata = {
        "emotions": emotions,
        "input_shape": (48, 48, 1),
        "model": {"name": "shallow", "options": options},
        "head": {"name": request.param, "loss": "softmax"},
    }
    checkpoint.save_weights(folder / "weights.safetensors", variables, metadata)
    (folder / "config.json").write_text(json.dumps({"data": {"name": "fer2013", "variant": ""}}))
    return folder


def test_the_command_draws_pictures_of_a_split(workdir, tmp_path, cache, capsys):
    raw = write_fer2013(tmp_path / "raw")
    arguments = [f"--workdir={workdir}", f"--data_dir={raw}", f"--output={tmp_path / 'out'}"]
    visualize.main([*arguments, "--split=validation"])
    paths = capsys.readouterr().out.split()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.png" for name in ("activations", "dreams", "embedding", "explanations", "filters")
    ]
    for path in paths:
        picture = cv2.imread(path)
        assert min(picture.shape[:2]) > 200, path
        assert picture.std() > 5, path
        assert (picture.reshape(-1, 3) != 255).any(1).mean() > 0.02, path
    with pytest.raises(SystemExit, match=r"error: .* has no holdout split"):
        visualize.main([*arguments, "--split=holdout"])


@pytest.mark.parametrize("workdir", ["classification"], indirect=True)
def test_the_logits_of_a_dream_are_those_of_its_pixels_where_images_are_standardised(workdir):
    net = recognizer.load(workdir)
    standard = {"mean": np.full(1, 127.5), "scale": np.full(1, 1 / 51), "least_deviation": np.full(1, 8.0)}
    net = dataclasses.replace(net, variables=net.variables | {"normalizer": standard})
    begin = np.random.default_rng(0).normal(100, 20, (48, 48, 1))
    start, pixels, before, after = report_figures._dream(jax.random.key(0), net, begin)
    for image, emotion, *logits in zip(pixels, range(7), before, after, strict=True):
        seen = np.stack([(each - each.mean()) / each.std() for each in (start, image)])
        asked = net.model.apply(net.variables, seen.astype(np.float32), train=False)
        np.testing.assert_allclose(asked[:, emotion], logits, rtol=1e-3)
    assert (after > before).all()


@pytest.mark.parametrize("workdir", ["classification"], indirect=True)
def test_several_runs_are_set_side_by_side(workdir, tmp_path, cache, capsys):
    raw = write_fer2013(tmp_path / "raw")
    other = tmp_path / "other"
    other.mkdir()
    variables, metadata = checkpoint.load_weights(workdir / "weights.safetensors")
    # Another order of the outputs, and contempt where disgust was: the rows are the six emotions in common.
    metadata["emotions"] = ["contempt", *metadata["emotions"][2:], "angry"]
    checkpoint.save_weights(other / "weights.safetensors", variables, metadata)
    arguments = [f"--data_dir={raw}", "--split=validation", f"--output={tmp_path / 'out'}"]
    visualize.main(["--workdir", str(workdir), str(other), *arguments])
    paths = capsys.readouterr().out.split()
    names = [f"{name}.png" for name in ("guided_backpropagation", "grad_cam", "dreams")]
    assert [path.rsplit("/", 1)[1] for path in paths] == names
    for path in paths:
        assert cv2.imread(path).std() > 5, path
    with pytest.raises(SystemExit, match="error: a --workdir is named twice"):
        visualize.main(["--workdir", str(workdir), str(workdir), *arguments])
    with pytest.raises(SystemExit, match="error: several --workdir are set side by side on a --split"):
        visualize.main(["--workdir", str(workdir), str(other), "--layer", "relu_0", *arguments])


def test_the_command_draws_pictures_of_files_of_any_size(workdir, tmp_path, capsys):
    rng = np.random.default_rng(0)
    files = []
    for number, shape in enumerate([(48, 48), (60, 90, 3)]):
        files.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(files[-1]), rng.integers(0, 256, shape, dtype=np.uint8))
    out = tmp_path / "out"
    chosen = ["--layer", "relu_1", "--cam_layer=Conv_0"]
    visualize.main([f"--workdir={workdir}", "--image", *map(str, files), f"--output={out}", *chosen])
    assert not (out / "embedding.png").exists()
    assert "no embedding.png: it wants at least three faces" in capsys.readouterr().out
    assert cv2.imread(str(out / "explanations.png")).std() > 5
    with pytest.raises(SystemExit, match="unknown layer with a map 'relu_9'"):
        visualize.main([f"--workdir={workdir}", f"--image={files[0]}", f"--output={out}", "--layer", "relu_9"])
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(SystemExit, match=r"error: .*no\.png cannot be read as an image"):
        visualize.main([f"--workdir={workdir}", f"--image={tmp_path / 'no.png'}", f"--output={out}"])
    with pytest.raises(SystemExit, match="error: cannot write to"):
        visualize.main([f"--workdir={workdir}", f"--image={files[0]}", f"--output={tmp_path / 'no.png'}"])


@pytest.mark.parametrize("workdir", ["classification"], indirect=True)
def test_maps_are_drawn_in_the_order_that_they_are_asked_in(workdir):
    net = recognizer.load(workdir)
    faces = report_figures.Faces.of_images(net, np.full((1, 48, 48, 1), 90, np.uint8), np.array([0]), "one")
    for layers in (["relu_1", "Conv_0", "relu_0"], ["Conv_0", "relu_0", "relu_1"]):
        figure = report_figures.activations(net, faces, layers)
        texts = [text.get_text().split()[0] for axes in figure.axes for text in axes.texts]
        assert texts == layers


def test_maps_are_drawn_through_training(workdir):
    net = recognizer.load(workdir)
    others = jax.tree.map(lambda leaf: 0.5 * leaf, net.variables["params"])
    nets = {"epoch-0001": dataclasses.replace(net, variables=net.variables | {"params": others}), "epoch-0002": net}
    figure = report_figures.through_training(nets, np.full((48, 48, 1), 90, np.float32))
    maps = [axes.images[0].get_array() for axes in figure.axes if len(axes.images) == 1 and axes.axison is False]
    assert len(maps) == 16  # eight channels in two rows
    assert not np.array_equal(maps[0], maps[8])
    with pytest.raises(UserError, match="unknown layer with a map 'relu_9'"):
        report_figures.through_training(nets, np.zeros((48, 48, 1), np.float32), "relu_9")
    kept = [Path(f"epoch-{n:04}.safetensors") for n in range(1, 31)]
    assert [path.stem[-2:] for path in visualize._some(kept)] == ["01", "07", "13", "18", "24", "30"]


def test_neutral_has_a_logit_where_the_head_gives_it_none(workdir):
    net = recognizer.load(workdir)
    logits = report_figures.emotion_model(net).apply(net.variables, jnp.ones((2, 48, 48, 1)), train=False)
    assert logits.shape == (2, 7)
    if net.head.num_outputs == 6:
        np.testing.assert_array_equal(logits[:, 6], -logits[:, :6].max(1))
