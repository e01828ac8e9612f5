from multiprocessing import Barrier, Process, Value

ROUNDS = 50_000


def race(counter, start):
    start.wait()
    for _ in range(ROUNDS):
        counter.value += 1  # reads and writes in two steps


def lock(counter, start):
    start.wait()
    for _ in range(ROUNDS):
        with counter.get_lock():
            counter.value += 1


def count(target):
    counter, start = Value("Q", 0), Barrier(4)
    processes = [Process(target=target, args=(counter, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return f"{counter.value} of {4 * ROUNDS}"


if __name__ == "__main__":
    print("without a lock:", count(race))
    print("with a lock:", count(lock))
    print("with an atomic:", count(lock))  # Python has none
