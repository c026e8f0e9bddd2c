"""Threads of CPython: a pool, queues, locks, local data, a library that releases the interpreter's lock, sockets. Prints what does not
depend on the order in which they ran."""
import hashlib
import queue
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

N = 4


def pool():
    data = [bytes([i]) * 40000 + str(i).encode() * 1000 for i in range(24)]
    with ThreadPoolExecutor(N) as executor:
        digests = list(executor.map(lambda d: hashlib.sha256(zlib.compress(d, 6)).hexdigest(), data))
    print("pool", hashlib.sha256("".join(digests).encode()).hexdigest())


def queues():
    todo, done = queue.Queue(8), queue.Queue()

    def work():
        while True:
            item = todo.get()
            if item is None:
                return
            done.put((item, item * item))

    workers = [threading.Thread(target=work) for _ in range(N)]
    for worker in workers:
        worker.start()
    for i in range(400):
        todo.put(i)
    for _ in workers:
        todo.put(None)
    for worker in workers:
        worker.join()
    results = dict(done.get() for _ in range(400))
    assert all(results[i] == i * i for i in range(400))
    print("queues", sum(results.values()))


def locks():
    lock, own = threading.Lock(), threading.local()
    count = {"n": 0}

    def work(number):
        own.n = 0
        for _ in range(200):
            with lock:
                count["n"] += 1
            own.n += number
        assert own.n == 200 * number

    workers = [threading.Thread(target=work, args=(i,)) for i in range(N)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("locks", count["n"])


def sockets():
    ours, theirs = socket.socketpair()

    def echo():
        while True:
            data = theirs.recv(1000)
            if not data:
                return
            theirs.sendall(data.upper())

    thread = threading.Thread(target=echo)
    thread.start()
    answers = []
    for i in range(50):
        text = b"message %d" % i
        ours.sendall(text)
        answers.append(ours.recv(len(text), socket.MSG_WAITALL))
    ours.close()
    thread.join()
    theirs.close()
    print("sockets", hashlib.sha256(b"".join(answers)).hexdigest())


def numbers():
    results = [None] * N

    def work(number):
        total = 0
        for i in range(20000):
            total = (total * 31 + i * number) % 1000003
        results[number] = total

    workers = [threading.Thread(target=work, args=(i,)) for i in range(N)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("numbers", results)


pool()
queues()
locks()
sockets()
numbers()
