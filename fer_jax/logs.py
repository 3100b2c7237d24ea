"""What a run writes for people: metrics.jsonl, TensorBoard events, the environment, a progress bar.

`metrics.jsonl` holds what is a function of config and data alone, so that a resumed run ends in the same bytes as
one never interrupted; what depends on the machine (seconds, images/s) goes to `timing.jsonl`.
"""

import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
from tqdm import tqdm

from fer_jax import files

PACKAGES = ("fer_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets")
PACKAGES += ("numpy", "opencv-python", "ml-collections")


class RunLog:
    """Appends rows to a run directory; opening it at a step drops the rows that come after."""

    def __init__(self, workdir: Path, *, step: int):
        self._path = workdir / "metrics.jsonl"
        self._timing = workdir / "timing.jsonl"
        self._folder, self._step = workdir / "tensorboard", step
        for path in (self._path, self._timing):
            if path.exists():
                kept = [row for row in files.read_rows(path) if row["step"] <= step]
                with files.whole(path) as temporary:
                    temporary.write_text("".join(map(_line, kept)))

    @functools.cached_property
    def _board(self):
        from tensorboardX import SummaryWriter  # here: it imports PyTorch where that is installed, for seconds

        return SummaryWriter(str(self._folder), purge_step=self._step + 1, write_to_disk=True)

    def row(self, row: dict) -> None:
        """One row of metrics: a dict with step, epoch, split and numbers (None where undefined)."""
        _append(self._path, row)
        for name, value in row.items():
            if name not in ("step", "epoch", "split") and isinstance(value, int | float):
                self._board.add_scalar(f"{row['split']}/{name}", value, row["step"])

    def timing(self, row: dict) -> None:
        """One row of wall-clock figures."""
        _append(self._timing, row)
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(f"timing/{name}", value, row["step"])

    def close(self) -> None:
        if "_board" in self.__dict__:
            self._board.close()


def environment() -> dict:
    """Versions, devices and the git commit, for the record beside the results."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processor": device_name(),
        "cores": os.cpu_count(),
        "processes": jax.process_count(),
        "git": _git_commit(),
    }


def device_name() -> str:
    """The accelerator's name, or the processor's where Linux tells it, and whether that has AVX-512."""
    device, processors = jax.devices()[0], Path("/proc/cpuinfo")
    if device.platform == "cpu" and processors.exists():
        lines = (line.partition(":") for line in processors.read_text().splitlines())
        told = {name.strip(): value.strip() for name, _, value in lines}
        wide = " (AVX-512)" if "avx512f" in told.get("flags", "").split() else ""
        return told.get("model name", device.device_kind) + wide
    return device.device_kind


def record_environment(path: Path, *, step: int) -> None:
    """Writes `environment` as a run begins; where it goes on elsewhere, or in other versions, that is added.

    Where more than the command line differs, that stands under `resumed`: environments, each with the step from which
    on it was that.
    """
    now = json.loads(json.dumps(environment()))
    if step == 0 or not path.exists():
        files.write_json(path, now)
        return
    first = json.loads(path.read_text())
    earlier = first.get("resumed", [])
    latest = earlier[-1] if earlier else first
    if any(latest.get(name) != value for name, value in now.items() if name != "command"):
        files.write_json(path, first | {"resumed": [*earlier, {"step": step} | now]})


class ProgressBar:
    """A bar over the whole run that counts images: images/s, time left, and the latest figures."""

    def __init__(self, *, total: int, done: int):
        self._figures: dict[str, str] = {}
        self._bar = tqdm(
            total=total,
            initial=done,
            unit="img",
            unit_scale=True,
            smoothing=0.1,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 15,  # a log file wants few lines
            desc="train",
            disable=jax.process_index() > 0,
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def advance(self, images: int) -> None:
        self._bar.update(images)

    def show(self, *, loss: float | None = None, validation_accuracy: float | None = None) -> None:
        """Updates the figures at the end of the bar."""
        if loss is not None:
            self._figures["loss"] = f"{loss:.3f}"
        if validation_accuracy is not None:
            self._figures["val acc"] = f"{validation_accuracy:.1%}"
        self._bar.set_postfix(self._figures, refresh=validation_accuracy is not None)


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"


def _append(path: Path, row: dict) -> None:
    with path.open("a") as file:
        file.write(_line(row))


def _git_commit() -> str | None:
    """The commit of the code that runs, with '+changes' when the tree differs from it; None outside its repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installed package may lie in another project's repository, whose commit says nothing of it.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if status.stdout.strip() else "")
