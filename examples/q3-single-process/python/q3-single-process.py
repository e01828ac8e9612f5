from multiprocessing import Process


def speak():
    print("this is my multiprocessing prog")


if __name__ == "__main__":
    print("this my main prog")
    child = Process(target=speak)
    child.start()
    child.join()
