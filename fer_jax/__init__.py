"""fer_jax: facial expression recognition in JAX/Flax. Importing this package imports no JAX."""

__version__ = "0.1.0"

try:
    import cv2  # noqa: F401 - all parts read, draw or show pictures
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Where system libraries are missing, as in many containers: "
        "apt-get install libgl1 libglib2.0-0"
    ) from error


def load_pretrained(name: str):
    """A trained network that comes with the package, as a `fer_jax.recognizer.Recognizer`.

    Each has a model card in `fer_jax/pretrained/`. Runs and weights files are loaded by `fer_jax.recognizer.load`.
    """
    from fer_jax import recognizer

    return recognizer.load(name)
