"""fer_jax: facial expression recognition in JAX/Flax. Importing this package imports no JAX."""

__version__ = "0.1.0"
