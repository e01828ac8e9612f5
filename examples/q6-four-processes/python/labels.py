from multiprocessing import Process


def print_label(label):
    print(f"This is the process {label}")


if __name__ == "__main__":
    children = [Process(target=print_label, args=(label,)) for label in "1234"]
    for child in children:
        child.start()
    for child in children:
        child.join()
