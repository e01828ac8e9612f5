"""Python's multiprocessing as an entrant of `cargo xtask bench`.

The command line is that of all entrants: `list`, or `round ENTRANT CASE [--quick]`. What a round does and how
time is taken is as in crates/tools/bench/src/measure.rs and stream.rs; standard library only.
"""

import json
import multiprocessing as mp
import os
import statistics
import subprocess
import sys
import time
import zlib
from array import array
from multiprocessing.managers import BaseManager
from threading import BrokenBarrierError

MIB = 1 << 20
BLOCK = 8 * MIB
SUMS = 200
LOCKS = 200_000
CAPACITY = 1024
CAPACITY_1MIB = 16


class Wrong(Exception):
    """Work that did not come out as it must."""


def check(what, expected, got):
    if expected != got:
        raise Wrong(f"the {what} is {got} and not {expected}")


class Scale:
    def __init__(self, quick):
        self.quick = quick
        self.stream = 0.1 if quick else 0.4
        self.repetitions = 0.3 if quick else 1.5

    def times(self, times):
        return max(times // 5, 3) if self.quick else times


def series(scale, times, one):
    start = time.perf_counter()
    for _ in range(min(max(times // 20, 1), 50)):
        one()
    durations = []
    while not durations or (len(durations) < times and time.perf_counter() - start < scale.repetitions):
        durations.append(one())
    return statistics.median(durations), f"middle of {len(durations)}"


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def repeated(scale, times, call):
    seconds, detail = series(scale, scale.times(times), lambda: timed(call)[0])
    return seconds * 1e6, detail


def back_to_back(scale, call):
    def ten():
        start = time.perf_counter()
        for _ in range(10):
            call()
        return (time.perf_counter() - start) / 10

    seconds, detail = series(scale, scale.times(2000), ten)
    return seconds * 1e6, detail


def from_sleep(scale, call):
    def one():
        time.sleep(0.002)
        return timed(call)[0]

    seconds, detail = series(scale, scale.times(300), one)
    return seconds * 1e6, detail


def rate(scale, amount, work, verify):
    def one():
        seconds, result = timed(work)
        verify(result)
        return seconds

    seconds, detail = series(scale, scale.times(25), one)
    return amount / seconds, detail


def nothing(*_):
    pass


def cube(n):
    return n * n * n & 0xFFFF_FFFF_FFFF_FFFF


def total(block):
    # The quickest sum of bytes that Python comes with: it is modulo 65521.
    return zlib.adler32(block) & 0xFFFF


def start(context, count=1):
    def call():
        children = [context.Process(target=nothing) for _ in range(count)]
        for child in children:
            child.start()
        for child in children:
            child.join()
            check("exit code", 0, child.exitcode)

    return call


def check_cubes(items, results):
    check("number of results", items, len(results))
    for number, result in enumerate(results):
        check(f"result {number}", cube(number), result)


def cubes(scale, items, call):
    with mp.Pool(2) as pool:
        return rate(
            scale,
            items / 1e6,
            lambda: call(pool, range(items)),
            lambda results: check_cubes(items, results),
        )


def in_chunks(chunk):
    return lambda pool, numbers: pool.map(cube, numbers, chunk)


def one_by_one(pool, numbers):
    tasks = [pool.apply_async(cube, (number,)) for number in numbers]
    return [task.get() for task in tasks]


def at_once(pool, numbers):
    return pool.map_async(cube, numbers).get()


def apply(pool):
    check("result", 27, pool.apply(cube, (3,)))


def produce(queue, seconds, length):
    start, number, between = time.perf_counter(), 0, max(65536 // length, 1)
    filling = bytes(length - 16) if length > 8 else None
    while time.perf_counter() - start < seconds:
        for number in range(number, number + between):
            stamp = number.to_bytes(8, "little")
            queue.put(number if filling is None else stamp + filling + stamp)
        number += 1
    queue.put(None)
    queue.put(number)


def stream(scale, length):
    queue = mp.Queue(CAPACITY if length < MIB else CAPACITY_1MIB)
    producer = mp.Process(target=produce, args=(queue, scale.stream, length))
    producer.start()
    message, count = queue.get(), 0
    start = time.perf_counter()
    while message is not None:
        if length > 8:
            check("length of a message", length, len(message))
            check("end of a message", message[:8], message[-8:])
            message = int.from_bytes(message[:8], "little")
        check("number of a message", count, message)
        count += 1
        message = queue.get()
    seconds = time.perf_counter() - start
    check("number of messages", queue.get(), count)
    producer.join()
    return count / seconds / 1e6, f"{count} messages"


def echo(pipe):
    while (number := pipe.recv()) is not None:
        pipe.send(number + 1)


def ping(scale, measure):
    ours, theirs = mp.Pipe()
    child = mp.Process(target=echo, args=(theirs,))
    child.start()

    def call():
        ours.send(7)
        check("answer", 8, ours.recv())

    measured = measure(scale, call)
    ours.send(None)
    child.join()
    return measured


def with_pool(scale, measure):
    with mp.Pool(2) as pool:
        return measure(scale, lambda: apply(pool))


def sums(scale):
    block = bytes(range(251)) * (BLOCK // 251 + 1)
    block = block[:BLOCK]
    expected = total(block) * SUMS
    with mp.Pool(2) as pool:
        work = lambda: sum(pool.imap_unordered(total, (block for _ in range(SUMS))))
        value, detail = rate(scale, SUMS * BLOCK / 1e9, work, lambda got: check("sum of all sums", expected, got))
    return value, detail + "; sums modulo 65521, by zlib"


def fresh():
    start = time.perf_counter()
    pool = mp.Pool(2)
    apply(pool)
    print((time.perf_counter() - start) * 1e6)
    pool.terminate()


def cold(scale):
    def one():
        output = subprocess.run([sys.executable, __file__, "fresh"], stdout=subprocess.PIPE, check=True).stdout
        return float(output) / 1e6

    seconds, detail = series(scale, scale.times(20), one)
    return seconds * 1e3, detail


def proportional(pid):
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))


def memory(_):
    with mp.Pool(2) as pool:
        apply(pool)
        time.sleep(0.3)
        return statistics.median(proportional(child.pid) for child in mp.active_children()), None


TABLE_LENGTH = 64 * MIB // 8


def make_table():
    """What workers inherit when they are forked."""
    global table, everyone
    table, everyone = array("Q", range(TABLE_LENGTH)), mp.Barrier(2)


def sum_of_some(_):
    everyone.wait()  # so that each worker runs one of these
    return sum(table[:: TABLE_LENGTH // 100])


def use_table(pool):
    expected = sum(range(0, TABLE_LENGTH, TABLE_LENGTH // 100))
    for got in pool.map(sum_of_some, range(2), 1):
        check("sum of some of the table", expected, got)


def table_memory(_):
    make_table()
    with mp.Pool(2) as pool:
        use_table(pool)
        processes = [os.getpid(), *(child.pid for child in mp.active_children())]
        return sum(map(proportional, processes)) * 1024 / 1e6, None


def table_first(scale):
    def one():
        start = time.perf_counter()
        make_table()
        with mp.Pool(2) as pool:
            use_table(pool)
            return time.perf_counter() - start

    seconds, detail = series(scale, scale.times(20), one)
    return seconds * 1e3, detail


def lock(scale):
    lock = mp.Lock()

    def thousand():
        start = time.perf_counter()
        for _ in range(1000):
            with lock:
                pass
        return (time.perf_counter() - start) * 1e6  # ns each

    return series(scale, scale.times(2000), thousand)


def add_often(lock, number, barrier):
    try:
        while True:
            barrier.wait()
            for _ in range(LOCKS):
                with lock:
                    number.value += 1
            barrier.wait()
    except BrokenBarrierError:
        pass


def lock_by_two(scale):
    lock, number, barrier = mp.Lock(), mp.Value("Q", 0, lock=False), mp.Barrier(3)
    children = [mp.Process(target=add_often, args=(lock, number, barrier), daemon=True) for _ in range(2)]
    for child in children:
        child.start()
    expected = 0

    def work():
        nonlocal expected
        barrier.wait()
        barrier.wait()
        expected += 2 * LOCKS
        return number.value

    measured = rate(scale, 2 * LOCKS / 1e6, work, lambda got: check("number under the lock", expected, got))
    barrier.abort()
    for child in children:
        child.join()
    return measured


class Cubes:
    def cube(self, n):
        return cube(n)


class Manager(BaseManager):
    pass


Manager.register("Cubes", Cubes)


def with_manager(scale, measure):
    with Manager() as manager:
        cubes = manager.Cubes()
        return measure(scale, lambda: check("result", 27, cubes.cube(3)))


FORK = "Python mp (fork)"
ENTRIES = {
    (FORK, "W1-start"): lambda e: repeated(e, 300, start(mp)),
    ("Python mp (spawn)", "W1-start"): lambda e: repeated(e, 20, start(mp.get_context("spawn"))),
    ("Python mp (forkserver)", "W1-start"): lambda e: repeated(e, 50, start(mp.get_context("forkserver"))),
    (FORK, "W1-x4"): lambda e: repeated(e, 100, start(mp, 4)),
    (FORK, "W2-map"): lambda e: cubes(e, 1_000_000, in_chunks(None)),
    (FORK, "W2-map-10M"): lambda e: cubes(e, 10_000_000, in_chunks(None)),
    (FORK, "W2-chunk1"): lambda e: cubes(e, e.times(100_000), in_chunks(1)),
    (FORK, "W2-submit"): lambda e: cubes(e, 10_000, one_by_one),
    (FORK, "W2-submit-map"): lambda e: cubes(e, 1_000_000, at_once),
    (FORK, "W3-hot"): lambda e: with_pool(e, back_to_back),
    (FORK, "W3-sleep"): lambda e: with_pool(e, from_sleep),
    (FORK, "W4-8B"): lambda e: stream(e, 8),
    (FORK, "W4-64B"): lambda e: stream(e, 64),
    (FORK, "W4-1KiB"): lambda e: stream(e, 1024),
    (FORK, "W4-1MiB"): lambda e: gigabytes(stream(e, MIB)),
    (FORK, "W5-hot"): lambda e: ping(e, back_to_back),
    (FORK, "W5-sleep"): lambda e: ping(e, from_sleep),
    (FORK, "W6-sum"): sums,
    (FORK, "W7-cold"): cold,
    (FORK, "W7-PSS"): memory,
    (FORK, "W8-lock"): lock,
    (FORK, "W8-lock-x2"): lock_by_two,
    (FORK, "W9-server-call"): lambda e: with_manager(e, back_to_back),
    (FORK, "W9-server-call-sleep"): lambda e: with_manager(e, from_sleep),
    (FORK, "W12-memory"): table_memory,
    (FORK, "W12-first"): table_first,
    (FORK, "W12-replaced"): "its pool hangs: a worker that is killed while it is idle holds the lock of the tasks",
}
UNITS = {"re": "s", "W1": "µs", "W2": "M items/s", "W3": "µs", "W4": "M/s", "W5": "µs", "W6": "GB/s", "W9": "µs"}
UNITS |= {"cl": "thousand items/s"}


def gigabytes(measured):
    value, detail = measured
    return value * MIB / 1e3, detail


def unit(case):
    special = {"W4-1MiB": "GB/s", "W7-cold": "ms", "W7-PSS": "kB", "W8-lock": "ns", "W8-lock-x2": "M/s"}
    special |= {"W12-memory": "MB", "W12-first": "ms", "cluster-task": "µs"}
    return special.get(case) or UNITS[case[:2]]


def main(arguments, entries):
    if arguments == ["list"]:
        for (entrant, case), run in entries.items():
            left_out = run if isinstance(run, str) else None
            print(json.dumps({"entrant": entrant, "case": case, "left_out": left_out}))
    elif arguments == ["fresh"]:
        fresh()
    else:
        _, entrant, case, *options = arguments
        try:
            value, detail, *usage = entries[entrant, case](Scale("--quick" in options))
        except Wrong as wrong:
            print(f"error: {wrong}", file=sys.stderr)
            return 3
        figure = {"entrant": entrant, "workload": case.split("-")[0], "case": case, "value": value}
        figure |= {"unit": unit(case), "checked": True, "detail": detail}
        print(json.dumps(figure | {"usage": usage[0] if usage else None}))
    return 0


if __name__ == "__main__":
    mp.set_start_method("fork")
    sys.exit(main(sys.argv[1:], ENTRIES))
