import sys

sys.path.pop(0)  # without this line, the standard library would import random.py of this folder
import time
from multiprocessing import Pool


def work(name, seconds):
    print(f" Process {name} waiting {seconds} seconds", flush=True)
    time.sleep(seconds)
    print(f" Process {name} Finished.", flush=True)


if __name__ == "__main__":
    with Pool(4) as pool:
        pool.starmap(work, [("A", 5), ("B", 2), ("C", 1), ("D", 3)], chunksize=1)
