"""Eight forced CPU devices, quick and cached compilation, and what tests of several files ask for."""

import os
import signal
from pathlib import Path

# Before anything imports JAX.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
# Of 3 levels: the tests compile for longer than they compute.
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=1"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/fer_jax/xla_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest

from fer_jax import process

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is absent: {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Commands set up their process: logging, memory, compiled programs. That of the tests stays as it is."""
    monkeypatch.setattr(process, "set_up", lambda **_: None)
    monkeypatch.setattr(process, "set_up_logging", lambda: None)
    monkeypatch.setattr(process, "share_gpu", lambda: None)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of prepared data sets, an empty one for each test."""
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/datasets"


@pytest.fixture
def as_in_a_terminal():
    """Signals that act as usual, though pytest itself may run under nohup or in the background of a shell."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
