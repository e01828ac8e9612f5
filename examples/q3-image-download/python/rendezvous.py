import tempfile
from multiprocessing import Process
from urllib.request import urlretrieve

from shared import server

if __name__ == "__main__":
    url = server.start(at_once=10)
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/rendezvous-{number}.jpg" for number in range(10)]
        children = [Process(target=urlretrieve, args=(url, file)) for file in files]
        for child in children:
            child.start()
        for child in children:
            child.join()
    print("The server had 10 requests before it answered the first.")
