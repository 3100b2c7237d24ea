"""fer_jax: facial expression recognition in JAX/Flax. Importing this package imports no JAX."""

__version__ = "0.1.0"


def load_pretrained(name: str):
    """A trained network of the package, see `fer_jax.recognizer.load_pretrained`."""
    from fer_jax import recognizer

    return recognizer.load_pretrained(name)
