"""How the benchmarks measure: sides that take turns, spreads, ratios pair by pair, a device's peak, memory, operations.

A work does at least so many units (steps, batches, epochs), waits for them, and returns how many it did.
"""

import functools
import re
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from fer_jax.errors import UserError

Work = Callable[[int], int]

# Dense TFLOP/s of NVIDIA's data sheets (those with sparsity halved), the more special name first. float32 is TF32 where
# the device has it, which is what XLA takes for products of float32; bfloat16 needs compute capability 8.
# B200: "HGX B200" (a GPU of eight); H200: "NVIDIA H200 Tensor Core GPU"; H100: "NVIDIA H100 Tensor Core GPU" and
# "H100 NVL"; A100: "NVIDIA A100 Tensor Core GPU"; L4: "NVIDIA L4 Tensor Core GPU"; T4: "NVIDIA T4 Tensor Core GPU";
# V100: "NVIDIA V100 Tensor Core GPU".
PEAKS: dict[str, dict[str, float]] = {
    "B200": {"bfloat16": 2250, "float32": 1125},
    "H200 NVL": {"bfloat16": 835.5, "float32": 417.5},
    "H200": {"bfloat16": 989.5, "float32": 494.5},
    "H100 NVL": {"bfloat16": 835.5, "float32": 417.5},
    "H100 PCIe": {"bfloat16": 756, "float32": 378},
    "H100": {"bfloat16": 989.5, "float32": 494.5},
    "A100": {"bfloat16": 312, "float32": 156},
    "L4": {"bfloat16": 121, "float32": 60},
    "T4": {"float32": 8.1},
    "V100-SXM2": {"float32": 15.7},
    "V100-PCIE": {"float32": 14.0},
}
_PRODUCT_SIDE = {"cpu": 2048}  # of the square matrices that measure an unknown device
_PRODUCT_SIDE_ACCELERATOR = 8192
_ROUNDS, _PRODUCTS = 7, 4  # of them in a round


def alternate(works: dict[str, Work], *, rounds: int, seconds: float, lead: int = 0) -> dict[str, list[float]]:
    """Seconds a unit of each work in each round: all warmed up first, then taking turns.

    Every other round goes backwards, so that a machine that warms up or is disturbed favours none.

    Args:
      seconds: that each work should take in a round; a work whose unit takes longer does one.
      lead: units before each measurement that do not count, for works that had time to get ahead while others ran.
    """
    units = {name: _units(work, seconds) for name, work in works.items()}
    times = {name: [] for name in works}
    for number in range(rounds):
        for name in reversed(works) if number % 2 else works:
            if lead:
                works[name](lead)
            started = time.perf_counter()
            done = works[name](units[name])
            times[name].append((time.perf_counter() - started) / done)
    return times


def _units(work: Work, seconds: float) -> int:
    work(1)  # compiles
    work(1)  # allocates
    started = time.perf_counter()
    done = work(1)
    return max(1, round(seconds / (time.perf_counter() - started) * done))


def alternate_calls(calls: dict[str, Callable[[], object]], *, rounds: int, count: int) -> dict[str, list[list[float]]]:
    """Seconds of every single call, `count` of them in each round: side -> [rounds][count]."""
    for call in calls.values():
        for _ in range(3):
            call()
    times = {name: [] for name in calls}
    for number in range(rounds):
        for name in reversed(calls) if number % 2 else calls:
            marks = [time.perf_counter()]
            for _ in range(count):
                calls[name]()
                marks.append(time.perf_counter())
            times[name].append(np.diff(marks).tolist())
    return times


def spread(values: Sequence[float]) -> dict[str, float | int]:
    """Median, smallest, largest and number."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def speeds(times: Sequence[float], images: int) -> dict[str, float | int]:
    """The spread of images/s, from the seconds of so many images in each round."""
    return spread([images / seconds for seconds in times])


def ratios(ours: Sequence[float], *theirs: Sequence[float]) -> dict[str, float | int]:
    """The spread of the fastest of the others' seconds by ours, round by round: above 1 = ours are faster."""
    return spread([min(others) / own for own, *others in zip(ours, *theirs, strict=True)])


def compile_anew(lowered) -> tuple[object, float]:
    """The compiled program, and the seconds that it took without the compilation cache on disk."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        started = time.perf_counter()
        compiled = lowered.compile()
        return compiled, time.perf_counter() - started
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


def program_bytes(compiled) -> int:
    """Device memory of a compiled program while it runs: arguments, results and what it needs in between."""
    memory = compiled.memory_analysis()
    own = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return own - memory.alias_size_in_bytes


def peak_bytes() -> int | None:
    """The most that this process has had in an accelerator's memory until now, all before included; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def known_peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of a device of NVIDIA's, by the name that JAX gives it; None: not in the table, or a part of one (MIG)."""
    if " MIG " in device_kind:
        return None
    for name, peaks in PEAKS.items():
        if re.search(rf"\b{re.escape(name)}\b", device_kind):
            return 1e12 * peaks[dtype] if dtype in peaks else None
    return None


@functools.cache
def peak_flops(dtype: str) -> tuple[float, str]:
    """FLOP/s of the first device, and where they are from: `data sheet`, or `matmul`, the fastest of some products."""
    device = jax.devices()[0]
    if known := known_peak(device.device_kind, dtype):
        return known, "data sheet"
    side = _PRODUCT_SIDE.get(device.platform, _PRODUCT_SIDE_ACCELERATOR)
    matrix = jax.device_put(np.random.default_rng(0).normal(size=(side, side)).astype(np.float32), device)
    matrix, multiply = matrix.astype(dtype), jax.jit(jnp.matmul)
    multiply(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        for _ in range(_PRODUCTS):  # waited for together: on accelerators one takes little more than the call
            product = multiply(matrix, matrix)
        product.block_until_ready()
        best = min(best, (time.perf_counter() - started) / _PRODUCTS)
    return 2 * side**3 / best, "matmul"


def utilisation(flops_per_second: float, dtype: str, devices: int) -> dict[str, float | str]:
    """Share of the devices' peak; CPU devices share one machine, which the measured peak is that of."""
    peak, source = peak_flops(dtype)
    devices = 1 if jax.default_backend() == "cpu" else devices
    return {"mfu": flops_per_second / (devices * peak), "peak_tflops": peak / 1e12, "peak_source": source}


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """How seconds grow with size: seconds = `fixed` + `slope` * size, and the `exponent` of size, 1 = linear.

    The line is that of the least relative errors, the exponent that of a line through the logarithms.

    Raises:
      UserError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise UserError("a slope needs at least two sizes")
    sizes, seconds = np.asarray(sizes, float), np.asarray(seconds, float)
    slope, fixed = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    worst = np.abs((fixed + slope * sizes) / seconds - 1).max()
    return {"slope": slope, "fixed": fixed, "exponent": exponent, "largest_deviation": worst}
