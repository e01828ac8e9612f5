from multiprocessing import Process


def print_number(number):
    print(number)


if __name__ == "__main__":
    children = [Process(target=print_number, args=(number,)) for number in range(1, 5)]
    for child in children:
        child.start()
    for child in children:
        child.join()
