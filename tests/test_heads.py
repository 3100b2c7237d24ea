"""Heads and losses against PyTorch and against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fer_jax import heads
from fer_jax.data.emotions import BASIC7, CANONICAL
from fer_jax.errors import UserError

SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (64, 7)).astype(np.float32)
    targets = rng.dirichlet(np.ones(7), 64).astype(np.float32)
    return logits, rng.integers(0, 7, 64), targets


def test_a_head_of_the_squared_hinge_has_that_loss(sample):
    logits, labels, _ = sample
    sign = 2 * np.eye(7)[labels] - 1
    found = heads.make_head("classification", BASIC7, loss="squared_hinge").loss(logits, {"label": labels})
    np.testing.assert_allclose(found, (np.maximum(0, 1 - sign * logits) ** 2).sum(1), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_equals_torch(torch, sample, smoothing):
    logits, labels, _ = sample
    ours = heads.softmax_cross_entropy(logits, labels, label_smoothing=smoothing)
    reference = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6)


def test_soft_cross_entropy_equals_torch(torch, sample):
    logits, _, targets = sample
    reference = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(targets), reduction="none")
    np.testing.assert_allclose(heads.soft_cross_entropy(logits, targets), reference, rtol=1e-6, atol=1e-6)


def test_sigmoid_cross_entropy_and_its_gradient_equal_torch(torch, sample):
    logits, _, targets = sample
    tensor = torch.tensor(logits, requires_grad=True)
    reference = torch.nn.functional.binary_cross_entropy_with_logits(tensor, torch.tensor(targets))
    reference.backward()
    ours, gradient = jax.value_and_grad(lambda x: heads.sigmoid_cross_entropy(x, targets).mean())(logits)
    np.testing.assert_allclose(ours, reference.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, tensor.grad, atol=1e-7)


def test_the_squared_hinge_equals_torch(torch, sample):
    logits, labels, _ = sample
    sign = 2 * torch.nn.functional.one_hot(torch.tensor(labels), 7) - 1
    reference = (torch.clamp(1 - sign * torch.tensor(logits), min=0) ** 2).sum(1)
    np.testing.assert_allclose(heads.squared_hinge(logits, labels), reference, rtol=1e-6)


@pytest.mark.parametrize("loss", [heads.softmax_cross_entropy, heads.squared_hinge])
def test_losses_of_huge_bfloat16_logits_are_finite(loss):
    logits = jnp.array([[300.0, -300.0, 0.0]], jnp.bfloat16)
    for label in range(3):
        assert np.isfinite(loss(logits, jnp.array([label]))).all()
    assert np.isfinite(heads.sigmoid_cross_entropy(logits, jnp.array([[0.0, 1.0, 0.5]]))).all()


@pytest.mark.parametrize("weighted", [True, False])
def test_weighted_cross_entropy_with_an_ignored_label_equals_torch(torch, sample, weighted):
    logits, labels, _ = sample
    labels = np.where(np.arange(64) % 5 == 0, heads.IGNORE, labels)
    class_weights = np.array([3, 1, 0.5, 1, 2, 1, 4], np.float32) if weighted else None
    weights = heads.example_weights(jnp.asarray(labels), class_weights)
    ours = (heads.softmax_cross_entropy(logits, labels) * weights).sum() / weights.sum()
    reference = torch.nn.functional.cross_entropy(
        torch.tensor(logits),
        torch.tensor(labels),
        weight=torch.tensor(class_weights) if weighted else None,
        ignore_index=heads.IGNORE,
    )
    assert float(ours) == pytest.approx(reference.item(), rel=1e-6)


def test_class_weights_are_inverse_to_the_counts_and_average_one():
    counts = [100, 300, 0, 50]
    inverse = heads.class_weights(counts, kind="inverse")
    np.testing.assert_allclose(inverse[0] / inverse[3], 0.5, rtol=1e-6)
    np.testing.assert_allclose(inverse[[0, 1, 3]].mean(), 1, rtol=1e-6)
    assert inverse[2] == 0
    effective = heads.class_weights(counts, kind="effective")
    assert inverse[3] / inverse[1] > effective[3] / effective[1] > 1  # between none and inverse
    np.testing.assert_allclose(heads.class_weights(counts, kind="inverse", power=0), [1, 1, 0, 1])


def test_neutral_is_the_complement_of_the_intensities():
    head = heads.make_head("intensity", SEVEN)
    assert head.num_outputs == 6
    logits = jnp.log(jnp.array([[0.9, 0.1, 0.1, 0.1, 0.1, 0.1], [0.1, 0.2, 0.1, 0.1, 0.1, 0.1]]))
    logits = logits - jnp.log1p(-jnp.exp(logits))  # the logits of those intensities
    np.testing.assert_allclose(head.intensities(logits)[:, :2], [[0.9, 0.1], [0.1, 0.2]], rtol=1e-5)
    probabilities = head.class_probabilities(logits)
    assert probabilities.argmax(-1).tolist() == [0, 6]
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(probabilities[1, 6] / probabilities[1, 1], 0.8 / 0.2, rtol=1e-5)


def test_neutral_is_found_by_name_wherever_it_stands():
    head = heads.make_head("intensity", ("neutral", "happy", "sad"))
    assert head.num_outputs == 2
    assert head.class_probabilities(jnp.array([[-9.0, -9.0], [9.0, -9.0]])).argmax(-1).tolist() == [0, 1]
    soft = heads.soft_labels(jnp.array([[0.25, 0.5]]), ("neutral", "happy", "sad"))
    np.testing.assert_allclose(soft, [[0.25, 0.25, 0.5]])


def test_soft_labels_of_hard_intensities_are_one_hot():
    np.testing.assert_allclose(heads.soft_labels(jnp.eye(7)[:, :6], SEVEN), np.eye(7))


def test_smoothing_mixes_soft_labels_with_even_shares():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    batch = {"intensity": jnp.eye(7)[:4, :6], "label": jnp.arange(4)}
    soft, hard = (heads.make_head("classification", SEVEN, loss=loss) for loss in ("soft", "softmax"))
    smoothed = soft.loss(logits, batch, label_smoothing=0.3)
    np.testing.assert_allclose(smoothed, hard.loss(logits, batch, label_smoothing=0.3), rtol=1e-6)
    assert not np.allclose(smoothed, soft.loss(logits, batch))


def test_the_label_has_its_share_of_a_soft_target():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    batch = {"intensity": jnp.full((4, 6), 0.1), "label": jnp.arange(4)}
    hard, soft, mixed = (
        heads.make_head("classification", SEVEN, loss=loss, label_share=share)
        for loss, share in (("softmax", 0.0), ("soft", 0.0), ("soft", 0.25))
    )
    expected = 0.25 * hard.loss(logits, batch) + 0.75 * soft.loss(logits, batch)
    np.testing.assert_allclose(mixed.loss(logits, batch), expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_an_image_whose_votes_are_all_for_emotions_left_out_has_its_label(share):
    logits = jax.random.normal(jax.random.key(0), (2, 2))
    batch = {"intensity": jnp.zeros((2, 2)), "label": jnp.arange(2)}
    soft = heads.make_head("classification", ("happy", "sad"), loss="soft", label_share=share)
    hard = heads.make_head("classification", ("happy", "sad"))
    np.testing.assert_allclose(soft.loss(logits, batch), hard.loss(logits, batch), rtol=1e-6)


def test_wrong_heads_and_losses_list_the_right_ones():
    with pytest.raises(UserError, match=r"classification, intensity"):
        heads.make_head("regression", SEVEN)
    with pytest.raises(UserError, match=r"softmax, soft, squared_hinge"):
        heads.make_head("classification", SEVEN, loss="softmx")


def test_smoothing_pulls_intensities_towards_a_half():
    logits = jax.random.normal(jax.random.key(0), (4, 6))
    batch = {"intensity": jnp.linspace(0, 1, 24).reshape(4, 6)}
    found = heads.make_head("intensity", BASIC7).loss(logits, batch, label_smoothing=0.2)
    expected = heads.sigmoid_cross_entropy(logits, 0.8 * batch["intensity"] + 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_intensities_of_a_classifier_are_those_of_their_names_after_neutral_too():
    logits = jax.random.normal(jax.random.key(0), (4, 8))
    shares = jax.nn.softmax(logits)
    found = heads.make_head("classification", CANONICAL).intensities(logits)  # contempt comes after neutral
    np.testing.assert_allclose(found, shares[:, [0, 1, 2, 3, 4, 5, 7]], rtol=1e-6)


def test_effective_weights_and_powers_by_their_definition():
    effective = heads.class_weights([100, 300, 0, 50], kind="effective")
    assert effective[3] / effective[1] == pytest.approx((1 - 0.999**300) / (1 - 0.999**50), rel=1e-5)
    half = heads.class_weights([100, 400], kind="inverse", power=0.5)
    np.testing.assert_allclose(half, [4 / 3, 2 / 3], rtol=1e-6)
