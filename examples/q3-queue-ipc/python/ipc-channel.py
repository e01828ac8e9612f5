from multiprocessing import Pipe, Process


def produce(writer):
    for number in range(1, 5):
        writer.send(f"ticket{number}")


def consume(reader, writer):
    writer.close()  # a forked child has inherited this end, and would keep the pipe open
    try:
        while True:
            print(reader.recv())
    except EOFError:
        pass


if __name__ == "__main__":
    reader, writer = Pipe(duplex=False)
    consumer = Process(target=consume, args=(reader, writer))
    producer = Process(target=produce, args=(writer,))
    consumer.start()
    producer.start()
    writer.send("ticket5")
    writer.close()
    producer.join()
    consumer.join()
