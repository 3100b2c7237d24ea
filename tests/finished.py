"""Tiny finished runs, for the tests of what is done with them."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fer_jax import run
from tests import tiny_config
from tests.faces import write_fer2013


@contextlib.contextmanager
def finished_runs(folder: Path, *, epochs: int, seeds: Sequence[int] = (0,)) -> Iterator[tuple[list[Path], Path]]:
    """Runs of some seeds on the same tiny data, while whose cache is in use: (run directories, raw data)."""
    raw = write_fer2013(folder / "raw", train=112)
    workdirs = [folder / f"run_{seed}" for seed in seeds]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_JAX_CACHE", str(folder / "cache"))
        for seed, workdir in zip(seeds, workdirs, strict=True):
            config = tiny_config.get_config()
            config.seed, config.train.epochs, config.train.batch_size, config.eval.batch_size = seed, epochs, 16, 16
            run.run(config, workdir, data_dir=str(raw))
        yield workdirs, raw
