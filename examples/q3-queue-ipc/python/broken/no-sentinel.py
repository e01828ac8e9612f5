"""Does not work: the consumer waits for a sixth ticket, so `consumer.join()` blocks without end."""

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
    consumer.join()
