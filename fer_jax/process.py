"""What a command of this package sets up for its process before JAX starts. Imports no JAX."""

import ctypes
import logging
import os
import platform
import sys

from absl import logging as absl_logging

from fer_jax import config as config_lib

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def set_up() -> None:
    """All of the below, in a process that has not yet used JAX."""
    set_up_logging()
    use_compilation_cache()
    keep_freed_memory()


def set_up_logging() -> None:
    """Our own messages, plain, on stderr; of the libraries, warnings only."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    logger = logging.getLogger("fer_jax")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless JAX_COMPILATION_CACHE_DIR says where."""
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config_lib.cache_directory() / "xla"))
    if "jax" in sys.modules:  # has read its environment already
        sys.modules["jax"].config.update("jax_compilation_cache_dir", folder)


def keep_freed_memory() -> None:
    """Lets malloc keep what XLA's CPU programs free, where the C library is glibc.

    A training step on a CPU takes its temporary memory, tens to hundreds of MB, from malloc, which by default maps it
    anew each time, zeroed page by page: a third of mini_xception's step. PyTorch's smaller blocks escape this.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
