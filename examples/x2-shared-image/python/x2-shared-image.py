import os
import struct
import zlib
from multiprocessing import Pool
from multiprocessing.shared_memory import SharedMemory

WIDTH = 240
HEIGHT = 160


def steps(re, im):
    x = y = 0.0
    count = 0
    while x * x + y * y <= 4.0 and count < 100:
        x, y = x * x - y * y + re, 2.0 * x * y + im
        count += 1
    return count


def fill_row(name, row):
    memory = SharedMemory(name)
    im = row / 80.0 - 1.0
    for column in range(WIDTH):  # nothing keeps it from writing elsewhere
        memory.buf[row * WIDTH + column] = 2 * steps(column / 80.0 - 2.0, im)
    memory.close()


def write_png(path, pixels):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + pixels[i : i + WIDTH] for i in range(0, len(pixels), WIDTH))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)))
        file.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


if __name__ == "__main__":
    memory = SharedMemory(create=True, size=WIDTH * HEIGHT)
    with Pool(4) as pool:
        pool.starmap(fill_row, [(memory.name, row) for row in range(HEIGHT)])
    pixels = bytes(memory.buf[: WIDTH * HEIGHT])  # a copy
    memory.close()
    memory.unlink()  # it has a name, and lives on without this
    print(f"{WIDTH} x {HEIGHT} pixels from 4 processes, brightness {sum(pixels)}")
    os.makedirs("target", exist_ok=True)
    write_png("target/x2-shared-image.png", pixels)
    print("written to target/x2-shared-image.png")
