import sys
import time
from multiprocessing import Pool

COUNT = 1000


def convert(number):
    time.sleep(0.002)
    if number == 250 or number % 100 == 99:
        return f"{number} cannot be converted"
    return None


if __name__ == "__main__":
    done = failed = 0
    with Pool(4) as pool:
        for error in pool.imap_unordered(convert, range(COUNT)):
            failed += error is not None
            done += error is None
            if sys.stderr.isatty():
                print(f"\r{done + failed}/{COUNT}, {failed} failed", end="", file=sys.stderr)
    print(f"{done} converted, {failed} failed")
