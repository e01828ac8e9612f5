from multiprocessing import Pool


def describe(number):
    return f"Square of {number} is {number**2} and it's Cube is {number**3}"


if __name__ == "__main__":
    with Pool(4) as pool:
        for line in pool.imap(describe, range(1, 6)):
            print(line)
