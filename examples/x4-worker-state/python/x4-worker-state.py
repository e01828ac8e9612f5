import time
from multiprocessing import Barrier, Pool

SIZE = 1 << 19
TASKS = 8
table = []


def make_table(size, barrier=None):
    global table, everyone
    table, everyone = list(range(size)), barrier
    for factor in range(2, int(size**0.5) + 1):
        for multiple in range(factor * factor, size, factor):
            if table[multiple] > factor:
                table[multiple] = factor


def count_primes(below):
    return sum(table[number] == number for number in range(2, below))


def count_primes_alone(below):
    make_table(SIZE)
    return count_primes(below)


def private_memory(_):
    everyone.wait()  # a pool cannot be told that each worker runs one of these
    with open("/proc/self/smaps_rollup") as usage:
        return sum(int(line.split()[1]) for line in usage if line.startswith("Private_")) // 1024


if __name__ == "__main__":
    limits = [task * (SIZE // TASKS) for task in range(1, TASKS + 1)]

    start = time.monotonic()
    with Pool(2) as pool:
        counts = pool.map(count_primes_alone, limits)
    print(f"{TASKS} tables, one for each task: {time.monotonic() - start:.3f} seconds")

    start = time.monotonic()
    with Pool(2, initializer=make_table, initargs=(SIZE, Barrier(2))) as pool:
        assert pool.map(count_primes, limits) == counts
        print(f"2 tables, one for each worker: {time.monotonic() - start:.3f} seconds")
        print(f"memory of the workers: {sum(pool.map(private_memory, range(2), 1))} MiB")
    print(counts[-1], "primes")
