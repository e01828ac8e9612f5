"""Celery and Ray as entrants of `cargo xtask bench --only cluster`: two workers on this machine.

The command line is that of all entrants, see python_peer.py. Celery has a Redis server of its own without files, and
its workers execute this file.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

from python_peer import check, main, rate, repeated

NO_WORK = 1
CELERY, RAY = "Celery on Redis", "Ray"
PORT = "BENCH_REDIS_PORT"

try:
    from celery import Celery, group

    REDIS = f"redis://127.0.0.1:{os.environ.get(PORT, 0)}/0"
    app = Celery("python_cluster", broker=REDIS, backend=REDIS)
    app.conf.update(worker_prefetch_multiplier=4, result_expires=60, broker_connection_retry_on_startup=True)
except ImportError:
    app = None

try:
    import ray
except ImportError:
    ray = None


def work(micros):
    """Keeps a CPU busy for a number of microseconds, or not at all, and returns it."""
    if micros != NO_WORK:
        end = time.perf_counter() + micros / 1e6
        while time.perf_counter() < end:
            pass
    return micros


celery_work = app.task(work, name="work") if app else None


@contextmanager
def celery_workers():
    port = free_port()
    redis = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(redis, cwd=tempfile.gettempdir(), **quiet)
    own = [sys.executable, __file__, "celery"]
    app.conf.update(broker_url=f"redis://127.0.0.1:{port}/0", result_backend=f"redis://127.0.0.1:{port}/0")
    worker = subprocess.Popen(own, env=os.environ | {PORT: str(port)}, **quiet)
    try:
        check("result", NO_WORK, celery_work.delay(NO_WORK).get(timeout=60))
        yield
    finally:
        for process in worker, server:
            process.terminate()
            process.wait()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def celery_task(scale):
    with celery_workers():
        return repeated(scale, 500, lambda: check("result", NO_WORK, celery_work.delay(NO_WORK).get()))


def celery_map(scale, micros, items):
    with celery_workers():
        return thousands(scale, micros, items, lambda: group(celery_work.s(micros) for _ in range(items))().get())


@contextmanager
def ray_workers():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray.remote(work)
    finally:
        ray.shutdown()


def ray_task(scale):
    with ray_workers() as remote_work:
        return repeated(scale, 500, lambda: check("result", NO_WORK, ray.get(remote_work.remote(NO_WORK))))


def ray_map(scale, micros, items):
    with ray_workers() as remote_work:
        return thousands(scale, micros, items, lambda: ray.get([remote_work.remote(micros) for _ in range(items)]))


def thousands(scale, micros, items, call):
    return rate(scale, items / 1e3, call, lambda results: check("sum", micros * items, sum(results)))


def entries():
    reasons = {
        CELERY: None if app and shutil.which("redis-server") else "there is no redis-server, or no package `celery`",
        RAY: None if ray else "there is no package `ray`",
    }
    found = {}
    for entrant, task, call in (CELERY, celery_task, celery_map), (RAY, ray_task, ray_map):
        own = {
            "cluster-task": task,
            "cluster-0": "a message for each item takes minutes",
            "cluster-100us": lambda scale, call=call: call(scale, 100, 10_000),
            "cluster-1ms": lambda scale, call=call: call(scale, 1000, 2000),
            "cluster-10ms": lambda scale, call=call: call(scale, 10_000, 200),
        }
        found |= {(entrant, case): reasons[entrant] or run for case, run in own.items()}
    return found


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if sys.argv[1:] == ["celery"]:
        app.worker_main(["worker", "--concurrency", "2", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"])
    else:
        sys.exit(main(sys.argv[1:], entries()))
