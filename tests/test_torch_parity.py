"""Whole nets equal PyTorch's with the same weights: logits and gradients."""

import jax
import numpy as np
import pytest

from fer_jax import heads, models, ops

torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")

from tests import torch_nets  # noqa: E402

# name, shape of the images, options without what is random
NETS = [
    ("deep", (4, 48, 48, 1), {"dropout": 0.0, "conv_dropout": 0.0}),
    ("mini_xception", (4, 48, 48, 1), {}),
    ("fcn_gap", (4, 48, 48, 1), {"dropout": 0.0}),
    ("vggs_small", (4, 128, 128, 3), {"dropout": 0.0}),
    ("resnet18", (4, 64, 64, 3), {}),  # 64 instead of 224: the same layers in a tenth of the time
]
# Those that are only compared with, small enough for seconds: their logits alone. The sizes pool incomplete windows,
# or ones that an error of a pixel would move.
COMPARED = {
    "vggs": (2, 60, 60, 3),
    "alexnet": (2, 95, 95, 3),
    "vgg16": (2, 32, 32, 3),
    "xception": (2, 72, 72, 3),
    "inception_v3": (2, 107, 107, 3),
}


@pytest.fixture
def double_precision():
    """float64 on both sides: in float32 a ReLU or a maximum that rounding tips over outweighs every tolerance."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def random_variables(model, images, rng):
    """Weights away from their initial zeros, ones and small logits, so that each has a part in the answer."""
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))

    def shake(path, leaf):
        positive = np.abs(rng.normal(size=leaf.shape)) if leaf.ndim == 1 else 0.0
        output = path[-2].key in ("Dense_2", "Conv_14") or leaf.shape[-1] == 7
        return np.asarray(leaf, np.float64) * (10 if output and leaf.ndim > 1 else 1) + 0.1 * positive

    return jax.tree_util.tree_map_with_path(shake, variables)


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("name", "shape", "options"), NETS, ids=[net[0] for net in NETS])
def test_logits_and_gradients_equal_pytorch(name, shape, options):
    model = models.create(name, num_outputs=7, dtype=np.float64, **options)
    rng = np.random.default_rng(0)
    images = rng.normal(size=shape)
    labels = np.arange(len(images)) % 7
    variables = random_variables(model, images, rng)

    @ops.jit
    def ours(variables):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            logits, _ = model.apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"], rngs=rngs
            )
            return heads.softmax_cross_entropy(logits, labels).mean(), logits

        gradients, logits = jax.grad(loss, has_aux=True)(variables["params"])
        return model.apply(variables, images, train=False), logits, gradients

    evaluated, trained, gradients = ours(variables)
    reference, theirs = getattr(torch_nets, name), torch_nets.to_torch(variables)
    expected = reference(theirs, torch.tensor(images), train=False).detach().numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(evaluated, expected, rtol=1e-4, atol=1e-4)
    logits = reference(theirs, torch.tensor(images), train=True)
    np.testing.assert_allclose(trained, logits.detach().numpy(), rtol=1e-4, atol=1e-4)
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    for path, gradient in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        tensor = theirs["params"]
        for part in path:
            tensor = tensor[part.key]
        largest = float(tensor.grad.abs().max())
        assert largest > 1e-9, path
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-3 * largest, err_msg=str(path))


@pytest.mark.parametrize("name", COMPARED)
def test_the_logits_of_the_nets_compared_with_equal_pytorch(name):
    model = models.create(name, num_outputs=7)
    rng = np.random.default_rng(0)
    images = rng.normal(size=COMPARED[name]).astype(np.float32)

    def drawn(path, leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key == "kernel":
            return values * np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
        return (path[-1].key in ("scale", "var")) + np.float32(0.2) * np.abs(values)

    shapes = models.variable_shapes(model, images.shape[1:])
    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    logits = ops.jit(lambda variables: model.apply(variables, images, train=False))(variables)
    reference, theirs = getattr(torch_nets, name), torch_nets.to_torch(variables)
    expected = reference(theirs, torch.tensor(images), train=False).detach().numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected, atol=1e-3 * expected.std())
