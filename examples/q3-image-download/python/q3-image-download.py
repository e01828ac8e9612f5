import tempfile
import time
from multiprocessing import Process
from urllib.request import urlretrieve

from shared import server

if __name__ == "__main__":
    url = server.start()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for number in range(10):
            urlretrieve(url, f"{folder}/normal-{number}.jpg")
        seconds = time.perf_counter() - start
        print(f"Normal method took          : {seconds:.3f} seconds to download 10 images")

        start = time.perf_counter()
        files = [f"{folder}/multi-{number}.jpg" for number in range(10)]
        children = [Process(target=urlretrieve, args=(url, file)) for file in files]
        for child in children:
            child.start()
        for child in children:
            child.join()
        seconds = time.perf_counter() - start
        print(f"Multiprocessing method took : {seconds:.3f} seconds to download 10 images")
