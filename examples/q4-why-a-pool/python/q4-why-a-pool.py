import os
import time
from multiprocessing import Pool, Process, Queue


def task(number):
    return os.getpid()


def send_task(number, results):
    results.put(task(number))


def report(how, pids, start):
    took = (time.perf_counter() - start) * 1000
    print(f"{len(pids)} tasks {how}: {len(set(pids))} processes, {took:.1f}ms")


if __name__ == "__main__":
    start = time.perf_counter()
    with Pool(4) as pool:
        report("in a pool", pool.map(task, range(32)), start)

    start = time.perf_counter()
    results = Queue()
    children = [Process(target=send_task, args=(number, results)) for number in range(32)]
    for child in children:
        child.start()
    pids = [results.get() for _ in children]
    for child in children:
        child.join()
    report("by a process each", pids, start)
