from multiprocessing import Process


def hello(subject):
    print(f"This is the test of {subject}")


if __name__ == "__main__":
    child = Process(target=hello, args=("multiprocessing",))
    child.start()
    child.join()
