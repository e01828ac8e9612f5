"""Does not work: the consumer waits for a sixth ticket, so `consumer.join()` would block without end."""

import sys
from multiprocessing import Process, Queue


def produce(queue):
    for number in range(1, 5):
        queue.put(f"ticket{number}")


def consume(queue):
    while True:
        print(queue.get(), flush=True)


if __name__ == "__main__":
    queue = Queue()
    consumer = Process(target=consume, args=(queue,))
    producer = Process(target=produce, args=(queue,))
    consumer.start()
    producer.start()
    queue.put("ticket5")
    producer.join()
    consumer.join(timeout=3)  # the usual program has no timeout here
    if consumer.is_alive():
        consumer.terminate()
        sys.exit("the consumer still waits after 3 seconds")
