import time
from multiprocessing import Barrier, Pool, get_context

SIZE = 1 << 19
TASKS = 8


def start_worker(barrier, size=0):
    global everyone
    everyone = barrier
    make_table(size)


def make_table(size):
    global table
    table = list(range(size))
    for factor in range(2, int(size**0.5) + 1):
        for multiple in range(factor * factor, size, factor):
            if table[multiple] > factor:
                table[multiple] = factor


def count_primes(below):
    return sum(table[number] == number for number in range(2, below))


def count_primes_alone(below):
    make_table(SIZE)
    return count_primes(below)


def memory(_):
    everyone.wait()  # a pool cannot be told that each worker runs one of these
    with open("/proc/self/smaps_rollup") as usage:
        return sum(int(line.split()[1]) for line in usage if line.startswith("Pss:"))


if __name__ == "__main__":
    limits = [task * (SIZE // TASKS) for task in range(1, TASKS + 1)]

    start = time.monotonic()
    with Pool(2, initializer=start_worker, initargs=(Barrier(2),)) as pool:
        counts = pool.map(count_primes_alone, limits)
        size = sum(pool.map(memory, range(2), 1))  # with the tables of the last tasks
    print(f"{TASKS} tables, one for each task: {time.monotonic() - start:.3f} seconds, {size} KiB")

    start = time.monotonic()
    with Pool(2, initializer=start_worker, initargs=(Barrier(2), SIZE)) as pool:
        assert pool.map(count_primes, limits) == counts
        size = sum(pool.map(memory, range(2), 1))
    print(f"2 tables, one for each worker: {time.monotonic() - start:.3f} seconds, {size} KiB")

    start = time.monotonic()
    start_worker(Barrier(2), SIZE)
    with get_context("fork").Pool(2) as pool:  # deadlocks if a thread held a lock
        assert pool.map(count_primes, limits) == counts
        size = sum(pool.map(memory, range(2), 1))
    print(f"1 table, for both workers: {time.monotonic() - start:.3f} seconds, {size} KiB")
    print(counts[-1], "primes")
