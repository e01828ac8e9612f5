import argparse
import time
from multiprocessing import Process


def do_something(seconds):
    print(f"Sleeping for {seconds} seconds", flush=True)
    time.sleep(seconds)
    print(f"Finished sleeping: {seconds}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()

    start = time.perf_counter()
    sleepers = [Process(target=do_something, args=(options.seconds,)) for _ in range(options.processes)]
    for sleeper in sleepers:
        sleeper.start()
    for sleeper in sleepers:
        sleeper.join()
    print(f"Program finished in {time.perf_counter() - start:.3f} seconds")
