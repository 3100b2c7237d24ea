"""HOG equals scikit-image's."""

import jax
import numpy as np
import pytest

from fer_jax.models.hog import hog

feature = pytest.importorskip("skimage.feature", reason="the reference is scikit-image, which is not installed")


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((48, 48, 1), {"orientations": 8, "cell": 8, "block": 2}),
        ((48, 48, 1), {"orientations": 9, "cell": 8, "block": 3}),
        ((50, 45, 1), {"orientations": 6, "cell": 7, "block": 1}),
        ((32, 32, 3), {"orientations": 8, "cell": 8, "block": 2}),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_hog_equals_scikit_image(shape, options, scale):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, scale, (3, *shape)).astype(np.float32)
    images[2] = scale / 2  # flat
    ours = jax.jit(lambda x: hog(x, **options))(images)
    for image, descriptor in zip(images, ours, strict=True):
        expected = feature.hog(
            image,
            orientations=options["orientations"],
            pixels_per_cell=(options["cell"],) * 2,
            cells_per_block=(options["block"],) * 2,
            block_norm="L2-Hys",
            channel_axis=-1,
        )
        np.testing.assert_allclose(descriptor, expected, atol=1e-4)


def test_hog_of_a_flat_image_has_a_finite_gradient():
    gradient = jax.grad(lambda x: hog(x).sum())(np.full((1, 48, 48, 1), 0.5, np.float32))
    assert np.isfinite(gradient).all()
