import ctypes
import signal
from multiprocessing import Process, Queue


def decode(image, results):
    if image == 3:
        ctypes.string_at(0)  # reads through a null pointer
    results.put(image * 1_000)


if __name__ == "__main__":
    children = []
    for image in range(1, 5):
        results = Queue()
        child = Process(target=decode, args=(image, results))
        child.start()
        children.append((image, child, results))
    for image, child, results in children:
        child.join()
        if child.exitcode == 0:
            print(f"image {image}: {results.get()} pixels")
        else:
            print(f"image {image}: killed by {signal.Signals(-child.exitcode).name}")
    print("The parent goes on.")
