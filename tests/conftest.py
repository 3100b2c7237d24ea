"""Eight forced CPU devices, a persistent compilation cache, warnings as errors."""

import os
from pathlib import Path

# Before anything imports JAX.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache/fer_jax/xla_tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the checkout; tests that need it skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real data is absent: {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder of prepared data sets, an empty one for each test."""
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/datasets"
