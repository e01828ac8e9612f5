from math import gamma
from multiprocessing import Pool

if __name__ == "__main__":
    points = [0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    with Pool(4) as pool:
        for x, value in zip(points, pool.map(gamma, points)):
            print(f"Gamma({x}) = {value:.8f}")
