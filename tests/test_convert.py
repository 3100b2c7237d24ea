"""Weights from elsewhere: the Keras mini-Xception and torchvision's names, and what does not fit."""

import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from fer_jax import checkpoint, convert, models
from fer_jax.data import normalization
from fer_jax.errors import UserError


def fake_tensors(model):
    """Tensors with the names and shapes of the source, as if read from a file."""
    source = convert.SOURCES[model]
    module = models.create(model, num_outputs=len(source.names) or 1000)
    template = models.variable_shapes(module, source.input_shape)
    shapes = {
        "/".join(part.key for part in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(template)[0]
    }
    tensors = {}
    for path, (name, _) in source.mapping().items():
        shape = shapes[path]
        if model != "mini_xception":
            shape = {4: lambda s: (s[3], s[2], s[0], s[1]), 2: lambda s: s[::-1]}.get(len(shape), lambda s: s)(shape)
        elif name.endswith("depthwise_kernel"):
            shape = (3, 3, shape[3], 1)
        tensors[name] = np.zeros(shape, np.float32)
    return tensors


def test_every_tensor_that_does_not_fit_is_listed_at_once():
    tensors = fake_tensors("mini_xception")
    del tensors["conv2d_2/kernel"]
    tensors["conv2d_7/bias"] = np.zeros(8, np.float32)
    tensors["dense_1/kernel"] = np.zeros((3, 3), np.float32)
    with pytest.raises(UserError) as error:
        convert.convert("mini_xception", tensors)
    assert str(error.value).startswith("3 tensors do not fit:")
    assert "conv2d_2/kernel is missing (for params/Conv_1/kernel)" in str(error.value)
    assert "conv2d_7/bias has shape (8,), params/Conv_14/bias wants (7,)" in str(error.value)
    assert "dense_1/kernel is left over" in str(error.value)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("mini_xception", (2, 64, 64, 1)),
        ("resnet18", (2, 64, 64, 3)),
        pytest.param("vgg16", (1, 224, 224, 3), marks=pytest.mark.slow),  # 138 million numbers
    ],
)
def test_the_converted_net_gives_the_logits_of_the_original(model, shape):
    pytest.importorskip("torch", reason="the originals are written in PyTorch, which is not installed")
    from tests import torch_originals

    rng = np.random.default_rng(0)
    images = rng.standard_normal(shape, np.float32)
    if model == "mini_xception":
        tensors, expected = torch_originals.keras_mini_xception(images, rng)
    else:
        original = {"resnet18": torch_originals.ResNet18, "vgg16": torch_originals.VGG16}[model]
        tensors, expected = torch_originals.of_torchvision(original(), images, rng)
    variables, metadata = convert.convert(model, tensors)
    del variables["normalizer"]
    module = models.create(model, num_outputs=expected.shape[1])
    assert bool(metadata["emotions"]) == (model == "mini_xception")
    assert expected.std() > 1e-3
    logits = jax.jit(lambda variables: module.apply(variables, images, train=False))(variables)
    np.testing.assert_allclose(logits, expected, atol=1e-3 * expected.std())


@pytest.mark.parametrize("model", convert.SOURCES)
def test_a_complete_file_fills_every_variable(model):
    variables, metadata = convert.convert(model, fake_tensors(model))
    module = models.create(model, num_outputs=7 if metadata["emotions"] else 1000)
    template = models.variable_shapes(module, metadata["input_shape"])
    filled = {name: variables[name] for name in template}
    assert jax.tree.structure(template) == jax.tree.structure(filled)
    assert set(variables) - set(template) == {"normalizer"}


def test_the_normalisation_is_that_of_the_original():
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # torchvision's, of 0..1
    for model in ("resnet18", "vgg16"):
        normalizer = {name: np.array(value) for name, value in convert.SOURCES[model].normalizer.items()}
        for image, expected in ((255 * mean, 0), (255 * (mean + deviation), 1)):
            np.testing.assert_allclose(normalization.apply(image, normalizer), expected, atol=1e-5)
    normalizer = {name: np.array(value) for name, value in convert.SOURCES["mini_xception"].normalizer.items()}
    ends = normalization.apply(np.array([[0.0], [255.0]]), normalizer)
    np.testing.assert_allclose(ends, [[-1], [1]], atol=1e-6)  # (x / 255 - 0.5) * 2


def test_the_first_affine_layer_of_vgg16_sees_the_maps_as_they_lie_here():
    name, transform = convert.SOURCES["vgg16"].mapping()["params/Dense_0/kernel"]
    assert name == "classifier.0.weight"
    weights = np.arange(512 * 49.0).reshape(1, -1)  # of one output: 512 maps, each 7 rows of 7
    np.testing.assert_array_equal(transform(weights)[:, 0], weights.reshape(512, 7, 7).transpose(1, 2, 0).ravel())


@pytest.mark.parametrize(("model", "numbers"), [("mini_xception", "58,423"), ("resnet18", "11,699,112")])
def test_the_command_writes_what_the_package_reads(tmp_path, capsys, model, numbers):
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(zeros.shape, np.float32) for name, zeros in fake_tensors(model).items()}
    save_file(tensors, tmp_path / "in.safetensors")
    arguments = [
        f"--model={model}",
        f"--input={tmp_path / 'in.safetensors'}",
        f"--output={tmp_path / 'new' / 'out.safetensors'}",
    ]
    with pytest.raises(SystemExit, match=r"error: --output=.*a\.txt/o\.safetensors cannot be written"):
        (tmp_path / "a.txt").write_text("")
        convert.main([*arguments[:2], f"--output={tmp_path / 'a.txt' / 'o.safetensors'}"])
    convert.main(arguments)
    assert f"{numbers} numbers" in capsys.readouterr().out
    variables, metadata = checkpoint.load_weights(tmp_path / "new" / "out.safetensors")
    expected, told = convert.convert(model, tensors)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert metadata["emotions"] == (told["emotions"] and list(told["emotions"]))  # None of ImageNet's


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"expected a file ending in \.hdf5"),
        ("a.safetensors", b"nonsense", "not a readable safetensors file"),
        ("missing.safetensors", None, "does not exist"),
    ],
)
def test_files_that_cannot_be_read(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        convert.read_tensors(tmp_path / name)


def test_a_pickle_is_never_run(tmp_path):
    torch = pytest.importorskip("torch", reason="`.pth` files need PyTorch, which is not installed")

    class Trap:
        def __reduce__(self):
            return (sys.exit, ("the pickle was run",))

    torch.save({"conv1.weight": Trap()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="it is not unpickled"):
        convert.read_tensors(tmp_path / "evil.pth")
    state = {"conv1.weight": torch.nn.Parameter(torch.ones(2, 3))}
    for content in (state, {"epoch": 3, "state_dict": state}):
        torch.save(content, tmp_path / "good.pth")
        assert convert.read_tensors(tmp_path / "good.pth")["conv1.weight"].shape == (2, 3)
    for content in ({"epoch": 3, "weights": state}, [torch.ones(2)]):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(UserError, match="is no state_dict, tensors by their names"):
            convert.read_tensors(tmp_path / "other.pth")


def test_keras_files_are_read_by_layer(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py, which is not installed")
    with h5py.File(tmp_path / "net.hdf5", "w") as file:
        file["model_weights/conv2d_1/conv2d_1_1/kernel:0"] = np.ones((3, 3, 1, 8))
    assert convert.read_tensors(tmp_path / "net.hdf5")["conv2d_1/kernel"].shape == (3, 3, 1, 8)
    (tmp_path / "bad.h5").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        convert.read_tensors(tmp_path / "bad.h5")
