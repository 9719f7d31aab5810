"""The same function on every shard: one after another, in a pool of processes, or under Ray Data on several machines.

The functions read and write files of a folder that all workers see, and give back JSON; so the result is the same however they run.
"""

import contextlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from typing import Any, Literal

from trimtab.common.errors import RunFailed, UserError

Runner = Literal["processes", "ray"]
Job = dict[str, Any]
AHEAD = 4  # jobs that wait for each worker: enough to keep it busy, few enough to stay small


def on_shards(function: Callable[[Job], Any], jobs: Iterable[Job], workers: int, runner: Runner = "processes") -> Iterator[Any]:
    """``function`` of every job, in the order of the jobs. With one worker and no Ray it runs here.

    Raises:
        UserError: Ray is asked for and not installed.
        RunFailed: a process was killed.
    """
    if runner == "ray":
        yield from _under_ray(function, jobs, workers)
    elif workers <= 1:
        yield from map(function, jobs)
    else:
        yield from _in_processes(function, jobs, workers)


def _in_processes(function: Callable[[Job], Any], jobs: Iterable[Job], workers: int) -> Iterator[Any]:
    waiting: deque[Future[Any]] = deque()
    others = set(active_children())
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_settle) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(function, job))
                while len(waiting) > AHEAD * workers or (waiting and waiting[0].done()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise RunFailed("a worker process was ended from outside, most likely for want of memory; try fewer: workers=1") from None
        except BaseException:
            for process in set(active_children()) - others:
                process.terminate()  # a shard takes seconds, and nobody wants what is left of it
            raise


def _under_ray(function: Callable[[Job], Any], jobs: Iterable[Job], workers: int) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"runner=ray needs the extra 'scale' ({error.name} is missing): pip install 'trimtab[scale]'") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"at": at, "job": json.dumps(job)} for at, job in enumerate(jobs)]
    ours = not ray.is_initialized()  # otherwise it runs on the cluster that the caller has connected to
    if ours:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False

        def run(row: dict[str, Any]) -> dict[str, Any]:
            return {"at": row["at"], "result": json.dumps(function(json.loads(row["job"])))}

        found = ray.data.from_items(rows, override_num_blocks=len(rows)).map(run).take_all() if rows else []
    finally:
        if ours:
            ray.shutdown()
    for row in sorted(found, key=lambda row: row["at"]):
        yield json.loads(row["result"])


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start inside share the cores: each computes with one thread."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _settle() -> None:
    """Ctrl-C is the parent's to handle."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
