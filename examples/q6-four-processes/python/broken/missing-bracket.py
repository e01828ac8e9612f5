# Does not work: the bracket of `print(` is never closed, so Python runs no line of this file.
from multiprocessing import Process


def times_ten(process):
    print(f"Process {process} gave a number: {process * 10}"


if __name__ == "__main__":
    for number in range(1, 5):
        child = Process(target=times_ten, args=(number,))
        child.start()
        child.join()
