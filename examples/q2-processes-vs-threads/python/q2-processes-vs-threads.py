from multiprocessing import Process
from threading import Thread

counter = 0


def count(report):
    global counter
    counter += 1
    if report:
        print(f"in one process: {counter}", flush=True)


def run(kind, report):
    workers = [kind(target=count, args=(report,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    run(Thread, False)
    print(f"after four threads: {counter}", flush=True)
    counter = 0
    run(Process, True)
    print(f"after four processes: {counter}")
