"""fer_jax: facial expression recognition in JAX/Flax. Importing this package imports no JAX."""

__version__ = "0.1.0"


def load_pretrained(name: str):
    """A trained network that comes with the package, as a `fer_jax.recognizer.Recognizer`.

    Each has a model card in `fer_jax/pretrained/`. Runs and weights files are loaded by `fer_jax.recognizer.load`.

    Raises:
      UserError: there is no such network; lists those that there are.
    """
    from fer_jax import recognizer

    return recognizer.load(name)
