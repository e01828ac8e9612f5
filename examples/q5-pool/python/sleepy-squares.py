import time
from multiprocessing import Pool


def square(number):
    time.sleep(2)
    print(f" {number * number}", end="", flush=True)
    return number * number


if __name__ == "__main__":
    with Pool(5) as pool:
        squares = pool.map(square, [3, 4, 5, 6, 6, 7, 87, 8, 8], chunksize=1)
    print()
    print(squares)
