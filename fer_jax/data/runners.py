"""Where a function of single images runs: in threads or processes of this machine, or on a Ray cluster.

All give the same results in the same order. Ray (extra `cluster`) joins the cluster that `RAY_ADDRESS` names, else
starts on this machine alone; input and output must lie where every machine of the cluster finds them.
"""

import collections
import contextlib
import itertools
import multiprocessing
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import TypeVar

from fer_jax.errors import UserError, unknown

Item = TypeVar("Item")
Result = TypeVar("Result")
Function = Callable[[Item], Result]
Submit = Callable[[Item], Future]

AHEAD = 4  # items in flight for each worker


def each(
    start: Callable[[], Function], items: Iterable[Item], *, runner: str, workers: int | None = None
) -> Iterator[Result]:
    """The results of `start()(item)` for all items, in their order, a bounded number ahead of who takes them.

    Args:
      start: called once in every worker; what is costly to make, such as a detector, is made there. Like items and
        results it must be picklable, but for threads.
      runner: a key of RUNNERS.
      workers: how many threads, processes or Ray actors; None: one for each core, of the whole cluster under Ray.

    Raises:
      UserError: an unknown runner, or Ray cannot be had.
      What the function raises; whatever has not been begun by then is left.
    """
    if runner not in RUNNERS:
        raise unknown("runner", runner, RUNNERS)
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: at least 1 is needed; leave it out for one a core")
    with RUNNERS[runner](start, workers) as (submit, count):
        ahead = collections.deque()
        for item in items:
            ahead.append(submit(item))
            if len(ahead) > AHEAD * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextlib.contextmanager
def _threads(start: Callable[[], Function], workers: int | None) -> Iterator[tuple[Submit, int]]:
    workers = workers or os.cpu_count() or 1
    function = start()
    pool = ThreadPoolExecutor(workers)
    try:
        yield lambda item: pool.submit(function, item), workers
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _processes(start: Callable[[], Function], workers: int | None) -> Iterator[tuple[Submit, int]]:
    workers = workers or os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")  # detectors hold threads, which a fork would break
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_Worker.begin, initargs=(start,))
    try:
        yield lambda item: pool.submit(_Worker.work, item), workers
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker:
    """The function of a worker process."""

    function: Function

    @classmethod
    def begin(cls, start: Callable[[], Function]) -> None:
        cls.function = staticmethod(start())

    @classmethod
    def work(cls, item: Item) -> Result:
        return cls.function(item)


@contextlib.contextmanager
def _ray(start: Callable[[], Function], workers: int | None) -> Iterator[tuple[Submit, int]]:
    try:
        import ray
    except ImportError:
        raise UserError("--runner=ray needs Ray: pip install 'fer_jax[cluster]', or leave --runner out") from None
    with joined_ray():
        workers = workers or int(ray.cluster_resources()["CPU"])
        actors = [ray.remote(_Actor).remote(start) for _ in range(workers)]
        turn = itertools.cycle(actors)
        try:
            yield lambda item: next(turn).work.remote(item).future(), workers
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            for actor in actors:
                ray.kill(actor)


@contextlib.contextmanager
def joined_ray() -> Iterator[None]:
    """Inside, this process is in the Ray cluster that RAY_ADDRESS names, else in one on this machine alone.

    Raises:
      UserError: nobody answers at RAY_ADDRESS.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    # Said outright: by itself Ray would join any cluster that was once started here.
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_address(address)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)  # JAX's; Ray calls exec
            ray.init(address, log_to_driver=False, include_dashboard=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise UserError(f"RAY_ADDRESS={address}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raises a UserError where nobody answers, which Ray waits minutes for."""
    if address.startswith("ray://"):
        raise UserError(f"RAY_ADDRESS={address}: run the command on a machine of the cluster, with RAY_ADDRESS=auto")
    host, _, port = address.rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise UserError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error


class _Actor:
    """The function of a Ray actor."""

    def __init__(self, start: Callable[[], Function]):
        self._function = start()

    def work(self, item: Item) -> Result:
        return self._function(item)


RUNNERS = {"threads": _threads, "processes": _processes, "ray": _ray}
