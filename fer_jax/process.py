"""What a command of this package sets up for its process before JAX starts. Imports no JAX."""

import argparse
import ctypes
import logging
import os
import platform
import signal
import sys

from absl import logging as absl_logging

from fer_jax import config as config_lib
from fer_jax.errors import UserError

# What ends a process that is to leave its work in order; the last comes when its terminal is closed, often twice.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def argument_parser(command: str, documentation: str) -> argparse.ArgumentParser:
    """Of `python -m COMMAND`: its help shows the first line of the module's docstring, the options, then the rest."""
    head, _, details = documentation.partition("\n")
    return argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=head,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def set_up(*, keep_programs: bool = True) -> None:
    """Logging, compilation cache and memory, for a process that has not yet used JAX.

    Args:
      keep_programs: takes compiled programs from the cache, and keeps those of this process there.
    """
    set_up_logging()
    if keep_programs:
        use_compilation_cache()
    keep_freed_memory()


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of several that train together, before it uses a device.

    Args:
      coordinator: HOST:PORT of the first process; None: what SLURM, Open MPI, Kubernetes or a TPU pod say, as of the
        other two.
      processes: how many there are.
      process: the number of this one, from 0.

    Raises:
      UserError: some of the three are missing and nothing else tells them, or the others do not come.
    """
    # It would catch SIGTERM, and leave it at that; we save and end.
    os.environ["JAX_ENABLE_PREEMPTION_SERVICE"] = "false"
    import jax

    try:
        # A process that is shown one GPU of several, as by `srun --gpus-per-task=1`, sees it as its first; JAX would
        # look for one of the number that the process has on its machine.
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        alone = {"local_device_ids": [0]} if shown and "," not in shown else {}
        jax.distributed.initialize(coordinator, processes, process, **alone)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: {str(error).splitlines()[0]}; start each process by srun or mpirun, or give it "
            f"--coordinator=HOST:PORT --processes=COUNT --process=NUMBER"
        ) from error
    if jax.process_index() > 0:
        logging.getLogger("fer_jax").setLevel(logging.WARNING)


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
    """Keeps compiled programs between runs: in JAX_COMPILATION_CACHE_DIR if set, else in `cache_directory()`/xla."""
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config_lib.cache_directory() / "xla"))
    if "jax" in sys.modules:  # has read its environment already
        sys.modules["jax"].config.update("jax_compilation_cache_dir", folder)


def ending_signals() -> list[signal.Signals]:
    """`ENDING` but for those that this process ignores, as nohup has it do."""
    return [signum for signum in ENDING if signal.getsignal(signum) != signal.SIG_IGN]


def share_gpu() -> None:
    """Takes a GPU's memory as it is needed, before JAX starts: what trains there may need it, too."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


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
