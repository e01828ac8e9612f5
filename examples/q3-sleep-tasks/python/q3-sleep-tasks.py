import time
from multiprocessing import Process


def do_something(seconds):
    print(f"Sleeping for {seconds} seconds", flush=True)
    time.sleep(seconds)
    print(f"Finished sleeping: {seconds}")


if __name__ == "__main__":
    start = time.perf_counter()
    first = Process(target=do_something, args=(3,))
    second = Process(target=do_something, args=(3,))
    first.start()
    second.start()
    first.join()
    second.join()
    print(f"Program finished in {time.perf_counter() - start:.3f} seconds")
