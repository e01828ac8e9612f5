import argparse
import os
import time
from multiprocessing import Process
from urllib.request import urlretrieve

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--out", default="images")
    options = parser.parse_args()
    os.makedirs(options.out, exist_ok=True)
    numbers = range(1, options.count + 1)

    start = time.perf_counter()
    for number in numbers:
        urlretrieve(options.url, f"{options.out}/normal-{number:02}.jpg")
    seconds = time.perf_counter() - start
    print(f"Normal method took          : {seconds:.3f} seconds to download {options.count} images")

    start = time.perf_counter()
    files = [f"{options.out}/multi-{number:02}.jpg" for number in numbers]
    children = [Process(target=urlretrieve, args=(options.url, file)) for file in files]
    for child in children:
        child.start()
    for child in children:
        child.join()
    seconds = time.perf_counter() - start
    print(f"Multiprocessing method took : {seconds:.3f} seconds to download {options.count} images")
