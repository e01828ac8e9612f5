"""The six faults of `cargo xtask faults --peers`, inflicted on Python's pools.

The command line is `Pool|Executor FAULT`. What a run does, and what it says, is as in crates/tools/faults/src/peers.rs and
report.rs; standard library only.
"""

import concurrent.futures
import json
import multiprocessing as mp
import os
import signal
import sys
import tempfile
import time

ITEMS = 20
FAULTY_ITEM = 10
BUSY = 3


def cube(item):
    time.sleep(0.002)
    return item**3


def killed(item):
    if item == FAULTY_ITEM:
        inject()
        kill_self()
    return cube(item)


def exits(item):
    if item == FAULTY_ITEM:
        inject()
        # The system's exit. What `sys.exit` does is to raise an exception.
        os._exit(5)
    return cube(item)


def refuse():
    raise ValueError("that is not a cube")


class NotACube:
    """What can be sent and not be received."""

    def __reduce__(self):
        return refuse, ()


def undecodable(item):
    if item == FAULTY_ITEM:
        inject()
        return NotACube()
    return cube(item)


def busy(item):
    be_present()
    time.sleep(BUSY)
    return cube(item)


def die_at_start():
    be_present()
    kill_self()


def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def note(name):
    return os.path.join(tempfile.gettempdir(), name)


def inject():
    with open(note("hit"), "w") as hit:
        hit.write(str(time.time()))


def be_present():
    with open(note("present"), "a") as present:
        present.write(".")


def await_presence(count):
    while not os.path.exists(note("present")) or os.path.getsize(note("present")) < count:
        time.sleep(0.001)


def say(**what):
    print(json.dumps(what), flush=True)


def say_settled(saw):
    now = time.time()
    with open(note("hit")) as hit:
        say(saw=saw, seconds=now - float(hit.read()))


def words(error):
    return f"{type(error).__name__}: {error}"


class Pool:
    def __init__(self, initializer=None):
        self.pool = mp.Pool(2, initializer)

    def submit(self, task, item):
        self.pool.apply_async(task, (item,))

    def tell(self, task):
        """A map is one call here, with one outcome."""
        try:
            results = self.pool.map(task, range(ITEMS), 1)
        except Exception as error:
            return f"the map fails ({words(error)})"
        check(results)
        return complete()

    def end(self):
        self.pool.terminate()


class Executor:
    def __init__(self, initializer=None):
        self.executor = concurrent.futures.ProcessPoolExecutor(2, initializer=initializer)

    def submit(self, task, item):
        return self.executor.submit(task, item)

    def tell(self, task):
        results, errors, futures = {}, [], {}
        for item in range(ITEMS):
            try:
                futures[item] = self.executor.submit(task, item)
            except Exception as error:
                errors.append(error)
        for item, future in futures.items():
            try:
                results[item] = future.result()
            except Exception as error:
                errors.append(error)
        check(results)
        if not errors:
            return complete()
        if len(errors) == 1:
            return f"one task fails ({words(errors[0])}), the other {ITEMS - 1} complete"
        failed = f"all {ITEMS}" if len(errors) == ITEMS else f"{len(errors)} of {ITEMS}"
        return f"{failed} tasks fail ({words(errors[0])})"

    def end(self):
        self.executor.shutdown()


def check(results):
    for item, result in results.items() if isinstance(results, dict) else enumerate(results):
        if result != item**3:
            sys.exit(f"error: the cube of {item} is not {result}")


def complete():
    return f"all {ITEMS} tasks complete"


def in_a_map(make, task):
    pool = make()
    say_settled(pool.tell(task))
    say(usable=pool.tell(cube) == complete())
    pool.end()


def parent_killed(make):
    pool = make()
    pool.submit(busy, 0)
    pool.submit(busy, 1)
    await_presence(2)
    kill_self()


def hold(lock):
    lock.acquire()
    be_present()
    time.sleep(60)


def lock_holder_killed(_):
    lock = mp.Lock()
    holder = mp.Process(target=hold, args=(lock,))
    holder.start()
    await_presence(1)
    inject()
    holder.kill()
    holder.join()
    lock.acquire()
    say_settled("the next in line has the lock")
    lock.release()
    say(usable=lock.acquire(timeout=1))


def death_at_start(make):
    inject()
    pool = make(die_at_start)
    say_settled(pool.tell(cube))
    pool.end()


FAULTS = {
    "worker-killed": lambda make: in_a_map(make, killed),
    "task-exits": lambda make: in_a_map(make, exits),
    "undecodable": lambda make: in_a_map(make, undecodable),
    "parent-killed": parent_killed,
    "lock-holder-killed": lock_holder_killed,
    "death-at-start": death_at_start,
}

if __name__ == "__main__":
    mp.set_start_method("fork")
    FAULTS[sys.argv[2]]({"Pool": Pool, "Executor": Executor}[sys.argv[1]])
