import sys

sys.path.pop(0)  # without this line, `import random` would find this file
import random
from multiprocessing import Process


def draw(process, seed):
    numbers = list(range(1, 101))
    random.Random(seed).shuffle(numbers)
    print(f"Process number {process}, random number generated : {numbers[process]}")


if __name__ == "__main__":
    seed = random.getrandbits(64)
    children = [Process(target=draw, args=(process, seed)) for process in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
