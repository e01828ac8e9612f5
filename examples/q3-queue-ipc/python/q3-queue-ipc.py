from multiprocessing import Process, Queue


def produce(queue):
    for number in range(1, 5):
        queue.put(f"ticket{number}")


def consume(queue):
    while (ticket := queue.get()) is not None:
        print(ticket)


if __name__ == "__main__":
    queue = Queue(16)
    consumer = Process(target=consume, args=(queue,))
    producer = Process(target=produce, args=(queue,))
    consumer.start()
    producer.start()
    queue.put("ticket5")
    producer.join()
    queue.put(None)  # the sentinel, behind the last ticket
    consumer.join()
