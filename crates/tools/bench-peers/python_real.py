"""The real workloads of `cargo xtask bench`, as people write them in Python: with Pool, ProcessPoolExecutor, joblib.

The command line is that of python_peer.py. Inputs are as large as those of crates/tools/bench/src/real, and are made
here. joblib, NumPy and Pillow may be missing; what needs them is missing then, too.
"""

import hashlib
import io
import json
import multiprocessing as mp
import os
import random
import resource
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

from python_peer import MIB, check, main, proportional

try:
    import joblib
    from joblib import Parallel, delayed
except ImportError:
    joblib = None
try:
    import numpy
except ImportError:
    numpy = None
try:
    from PIL import Image
except ImportError:
    Image = None


# What a round uses, as in crates/tools/bench/src/usage.rs.


class ProcessTree:
    """This process, its children, and so on. What each process is, is read once."""

    def __init__(self):
        self.members, self.others = [os.getpid()], set()

    def refresh(self):
        running = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        self.members = [pid for pid in self.members if pid in running]
        self.others &= running
        parents = {}
        for pid in running - self.others - set(self.members):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    parents[pid] = int(stat.read().rpartition(")")[2].split()[1])
            except OSError:
                pass
        while mine := [pid for pid, parent in parents.items() if parent in self.members]:
            self.members += mine
            for pid in mine:
                del parents[pid]
        self.others |= parents.keys()
        return self.members


def of_all(pids, measure):
    total = 0
    for pid in pids:
        try:
            total += measure(pid)
        except (OSError, StopIteration):
            pass  # it has just ended
    return total


def cpu_time():
    ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    clock = lambda pid: time.clock_gettime(~pid << 3 | 2)
    return sum(used.ru_utime + used.ru_stime for used in ended) + of_all(ProcessTree().refresh()[1:], clock)


class Sampler(threading.Thread):
    def __init__(self):
        super().__init__()
        self.peak, self.used, self.stopped, self.process_tree = 0, 0, threading.Event(), ProcessTree()

    def run(self):
        pause = 0
        while not self.stopped.wait(pause):
            start = time.perf_counter()
            self.sample()
            pause = max(0.005, 20 * (time.perf_counter() - start))
        self.sample()
        self.used = time.thread_time()

    def sample(self):
        self.peak = max(self.peak, of_all(self.process_tree.refresh(), proportional) / 1e3)


def user_lines(name):
    inside, count = False, 0
    with open(__file__) as source:
        for line in map(str.strip, source):
            if line == f"# user code: {name}":
                inside = True
            elif line == "# end":
                inside = False
            elif inside and line and not line.startswith("#"):
                count += 1
    return count


def measure(name, context, work, verify):
    """Enters the context, does the work with it, leaves it, and says what that took."""
    with context as pool:
        before, sampler = cpu_time(), Sampler()
        sampler.start()
        start = time.perf_counter()
        result = work(pool)
        seconds = time.perf_counter() - start
        sampler.stopped.set()
        sampler.join()
    cpu = cpu_time() - before - sampler.used
    verify(result)
    return seconds, None, {"cpu": cpu, "memory": sampler.peak, "lines": user_lines(name)}


class nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        pass


# The three libraries: a pool that is up, and a map.


def up(_):
    time.sleep(0.01)


class Executor(ProcessPoolExecutor):
    def __enter__(self):
        list(self.map(up, range(2 * self._max_workers)))
        return super().__enter__()


class Joblib:
    def __init__(self, workers):
        self.parallel, self.workers = Parallel(n_jobs=workers), workers

    def __enter__(self):
        self.parallel.__enter__()
        self.parallel(delayed(up)(number) for number in range(8 * self.workers))
        return self.parallel

    def __exit__(self, *failure):
        self.parallel.__exit__(*failure)
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


def map_pool(pool, function, items, chunk):
    # user code: Pool
    return pool.map(function, items)
    # end


def map_executor(executor, function, items, chunk):
    # user code: Executor
    return list(executor.map(function, items, chunksize=chunk))
    # end


def map_joblib(parallel, function, items, chunk):
    # user code: joblib
    return parallel(delayed(function)(item) for item in items)
    # end


LIBRARIES = {"Python Pool": (mp.Pool, map_pool, "Pool"), "Python Executor": (Executor, map_executor, "Executor")}
if joblib:
    LIBRARIES["joblib"] = (Joblib, map_joblib, "joblib")


def mapped(library, function, items, verify, workers=2, chunk=1):
    pool, run, name = LIBRARIES[library]
    seconds, _, usage = measure(name, pool(workers), lambda pool: run(pool, function, items, chunk), verify)
    return seconds, f"chunksize={chunk}" if name == "Executor" and chunk > 1 else None, usage


def check_mapped(function, items, results):
    check("number of results", len(items), len(results))
    for item, result in list(zip(items, results))[::97]:
        check(f"result of {item!r:.40}", function(item), result)


def plain(function, items, **options):
    """A map over items that are made quickly and checked by doing some again."""

    def run(library, scale):
        made = items(scale)
        return mapped(library, function, made, lambda results: check_mapped(function, made, results), **options)

    return run


# The workloads.


def texts(scale):
    chance = random.Random(1)
    vocabulary = [f"word{number}" for number in range(30_000)]
    weights = [1 / (number + 1) for number in range(len(vocabulary))]
    cumulative = [total := 0] and [total := total + weight for weight in weights]
    texts, expected, longest = [], Counter(), scale.times(500_000)
    for rank in range(1, 401):
        words = chance.choices(vocabulary, cum_weights=cumulative, k=longest // rank)
        expected.update(words)
        texts.append(" ".join(words))
    chance.shuffle(texts)
    return texts, expected


def count(text):
    return Counter(text.split())


def words(library, scale):
    made, expected = texts(scale)

    def pool(pool):
        # user code: words, Pool
        total = Counter()
        for counts in pool.imap_unordered(count, made):
            total.update(counts)
        # end
        return total

    def executor(executor):
        # user code: words, Executor
        total = Counter()
        for counts in executor.map(count, made):
            total.update(counts)
        # end
        return total

    def in_joblib(parallel):
        # user code: words, joblib
        total = Counter()
        for counts in parallel(delayed(count)(text) for text in made):
            total.update(counts)
        # end
        return total

    start, _, name = LIBRARIES[library]
    work = {"Pool": pool, "Executor": executor, "joblib": in_joblib}[name]
    return measure(f"words, {name}", start(2), work, lambda total: check("counts", expected, total))


COLOURS = [(200, 60, 60), (60, 200, 60), (60, 60, 200), (180, 180, 60), (60, 180, 180), (120, 120, 120)]


def jpeg(colour):
    width, height = 1024, 768
    noise = Image.frombytes("L", (width, height), random.Random(3).randbytes(width * height))
    noise = Image.blend(noise, Image.linear_gradient("L").resize((width, height)), 0.5)
    channel = lambda value: noise.point(lambda random: value + random // 6 - 21)
    file = io.BytesIO()
    Image.merge("RGB", [channel(value) for value in colour]).save(file, "JPEG", quality=85)
    return file.getvalue()


def thumbnail(jpeg):
    picture, file = Image.open(io.BytesIO(jpeg)), io.BytesIO()
    picture.thumbnail((128, 128))
    picture.save(file, "JPEG")
    return file.getvalue()


def check_thumbnails(number, results):
    check("number of thumbnails", number, len(results))
    for index, result in enumerate(results):
        picture, colour = Image.open(io.BytesIO(result)), COLOURS[index % len(COLOURS)]
        check("size of a thumbnail", (128, 96), picture.size)
        middle = picture.getpixel((64, 48))
        check("colour of a thumbnail", True, all(abs(a - b) < 24 for a, b in zip(middle, colour)))


def thumbnails(library, scale):
    number, different = scale.times(96), [jpeg(colour) for colour in COLOURS]
    made = [different[index % len(different)] for index in range(number)]
    return mapped(library, thumbnail, made, lambda results: check_thumbnails(number, results))


def hits(seed):
    x, y = numpy.random.default_rng(seed).random((2, 100_000))
    return int((x * x + y * y < 1).sum())


def json_lines(scale):
    chance, tags = random.Random(2), ['"new"', '"new","sale"', '"gift"']
    line = '{{"id":{},"user":"user{}","tags":[{}],"amount":{},"open":true}}'.format
    lines = range(scale.times(300_000))
    return [line(number, number % 977, chance.choice(tags), chance.randrange(10_000)) for number in lines]


def parse(line):
    record = json.loads(line)
    words = len(record["user"]) + sum(map(len, record["tags"]))
    return record["id"] + record["amount"] + words + record["open"]


def blobs(scale):
    filling = (bytes(range(251)) * (8 * MIB // 251 + 1))[: 8 * MIB - 8]
    return [number.to_bytes(8, "little") + filling for number in range(scale.times(64))]


def digest(blob):
    return hashlib.sha256(blob).digest()


def digest_shared(name):
    memory = SharedMemory(name)
    result = hashlib.sha256(memory.buf).digest()
    memory.close()
    return result


def hash_shared(library, scale):
    def share(blob):
        memory = SharedMemory(create=True, size=len(blob), name=f"multiproc_bench_{os.getpid()}_{blob[0]}")
        memory.buf[:] = blob
        return memory

    memories = [share(blob) for blob in blobs(scale)]
    names = [memory.name for memory in memories]
    verify = lambda results: check_mapped(digest_shared, names, results)
    try:
        return mapped(library, digest_shared, names, verify)
    finally:
        for memory in memories:
            memory.close()
            memory.unlink()


def small(number):
    return number * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF


def chain(number, steps):
    return hashlib.pbkdf2_hmac("sha256", number.to_bytes(8, "little"), b"salt", steps)


def skewed(number):
    return chain(number, 22_000 if number % 500 == 499 else 14)


def request(number):
    return chain(number, 860)


def load():
    global TABLE
    TABLE = make_table()


def make_table():
    return numpy.arange(6_250_000, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)


def look_up(table, number):
    picks = numpy.random.Generator(numpy.random.SFC64(number)).integers(0, len(table), 2_000)
    return int(table[picks].sum())


def look_up_loaded(number):
    return look_up(TABLE, number)


def table(library, scale):
    items = range(scale.times(40_000))

    def pool(_):
        # user code: table, Pool
        with mp.Pool(2, load) as pool:
            return pool.map(look_up_loaded, items)
        # end

    def executor(_):
        # user code: table, Executor
        with ProcessPoolExecutor(2, initializer=load) as executor:
            return list(executor.map(look_up_loaded, items, chunksize=100))
        # end

    def in_joblib(parallel):
        # user code: table, joblib
        table = make_table()
        return parallel(delayed(look_up)(table, item) for item in items)
        # end

    def verify(results):
        made = make_table()
        check_mapped(lambda item: look_up(made, item), items, results)

    start, _, name = LIBRARIES[library]
    if name == "joblib":
        return measure("table, joblib", start(2), in_joblib, verify)
    work = {"Pool": pool, "Executor": executor}[name]
    seconds, _, usage = measure(f"table, {name}", nothing(), work, verify)
    return seconds, "with the start of the pool", usage


@dataclass
class Order:
    id: int
    customer: str
    quantity: int
    price: int


def order(id):
    return Order(id, f"customer {id % 1000}", id * 7919 % 10, id * 7907 % 10_000)


def price(order):
    return order.id, order.quantity * max(order.price - order.customer.endswith("7"), 0)


# user code: pipeline
def produce(orders, count):
    for id in range(count):
        orders.put(order(id))
    for _ in range(2):
        orders.put(None)


def consume(orders, priced):
    while (order := orders.get()) is not None:
        priced.put(price(order))
    priced.put(None)


# end


def pipeline(scale):
    count = scale.times(500_000)

    def work(_):
        # user code: pipeline
        orders, priced = mp.Queue(1024), mp.Queue(1024)
        children = [mp.Process(target=produce, args=(orders, count))]
        children += [mp.Process(target=consume, args=(orders, priced)) for _ in range(2)]
        for child in children:
            child.start()
        results, running = [], 2
        while running:
            if (result := priced.get()) is None:
                running -= 1
            else:
                results.append(result)
        for child in children:
            child.join()
        # end
        return results

    verify = lambda results: check("orders", [price(order(id)) for id in range(count)], sorted(results))
    return measure("pipeline", nothing(), work, verify)


def requests(library, scale):
    count = scale.times(1_500)

    def pool(pool, number):
        # user code: requests, Pool
        return pool.apply(request, (number,))
        # end

    def executor(executor, number):
        # user code: requests, Executor
        return executor.submit(request, number).result()
        # end

    start, _, name = LIBRARIES[library]
    call = {"Pool": pool, "Executor": executor}[name]

    def work(pool):
        # user code: requests, Pool
        # user code: requests, Executor
        answers = [None] * (4 * count)

        def client(first):
            for number in range(first, 4 * count, 4):
                answers[number] = call(pool, number)

        clients = [threading.Thread(target=client, args=(first,)) for first in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        # end
        return answers

    verify = lambda answers: check_mapped(request, range(4 * count), answers)
    seconds, _, usage = measure(f"requests, {name}", start(2), work, verify)
    return seconds, NO_CRASHES[name], usage


NO_CRASHES = {
    "Pool": "without crashes: a call whose worker dies never returns",
    "Executor": "without crashes: one ends the whole executor",
}


def nap(number):
    time.sleep(0.001)
    return number


def entries():
    counted = lambda number: lambda scale: range(scale.times(number))
    workloads = {
        "words": words,
        "json": plain(parse, json_lines, chunk=1_000),
        "hash": plain(digest, blobs),
        "hash-shared": hash_shared,
        "small": plain(small, counted(2_000_000), chunk=1_000),
        "skewed": plain(skewed, counted(40_000), chunk=100),
        "requests": requests,
        "sleeps": plain(nap, counted(5_000), workers=32),
    }
    if Image:
        workloads["thumbnails"] = thumbnails
    if numpy:
        workloads["monte-carlo"] = plain(hits, counted(2_000))
        workloads["table"] = table
    made = {}
    for name, run in workloads.items():
        for library in LIBRARIES:
            made[library, f"real-{name}"] = lambda scale, run=run, library=library: run(library, scale)
    for library in LIBRARIES:
        made[library, "real-mandelbrot"] = "it would measure NumPy, whose loops take 20 times as long"
    if joblib:
        made["joblib", "real-requests"] = "it has no single calls"
    made["Python Queue", "real-pipeline"] = pipeline
    return made


if __name__ == "__main__":
    mp.set_start_method("fork")
    sys.exit(main(sys.argv[1:], entries()))
