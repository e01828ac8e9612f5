import os
import shutil
from multiprocessing import Process
from multiprocessing.managers import BaseManager
from threading import Lock


class Bank:
    def __init__(self, names):
        self.accounts = {name: 100 for name in names}
        self.lock = Lock()  # a manager runs each caller in a thread of its own

    def transfer(self, source, target, amount):
        with self.lock:
            self.accounts[source] -= amount
            self.accounts[target] += amount
            return self.accounts[source]

    def balance(self, name):
        return self.accounts[name]

    def crash(self):
        os.abort()


class Manager(BaseManager):
    pass


Manager.register("Bank", Bank)


def pay_often(bank):
    for _ in range(50):
        bank.transfer("Anna", "Ben", 1)


if __name__ == "__main__":
    manager = Manager()
    manager.start()
    bank = manager.Bank(["Anna", "Ben"])
    children = [Process(target=pay_often, args=(bank,)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print(f"after 100 payments Anna has {bank.balance('Anna')}")

    try:
        bank.crash()
    except EOFError as error:
        print("the running call fails:", repr(error))  # with the manager all its objects are gone
        shutil.rmtree(os.path.dirname(manager.address))  # but not its folder
    manager = Manager()
    manager.start()
    bank = manager.Bank(["Anna", "Ben"])
    print(f"the next call sees a new bank: {bank.balance('Anna')}")
