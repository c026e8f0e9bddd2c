"""Clients of the memcached test: eight connections at once, each with keys of its own, and keys that all share.

    memcached_client.py SOCKET [ROUNDS]
Ends with status 1 and one line that says what is wrong."""
import hashlib
import socket
import sys
import threading
import time

CLIENTS = 8
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 150
wrong = []


def value_of(client, number, version):
    key = b"%d/%d/%d" % (client, number, version)
    size = 10 + int.from_bytes(hashlib.md5(key).digest()[:2], "little") % 6000
    return hashlib.shake_128(key).digest(size)


class Memcached:
    def __init__(self, path, deadline_s=20):
        end = time.monotonic() + deadline_s
        while True:
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(30)
                self.sock.connect(path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.file = self.sock.makefile("rb")

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise RuntimeError("the connection ended: %r" % line)
        return line[:-2]

    def ask(self, text):
        self.sock.sendall(text + b"\r\n")
        return self.line()

    def set(self, key, value):
        answer = self.ask(b"set %s 0 0 %d\r\n%s" % (key, len(value), value))
        if answer != b"STORED":
            raise RuntimeError("set %r: %r" % (key, answer))

    def get(self, key):
        head = self.ask(b"get " + key)
        if head == b"END":
            return None
        size = int(head.split()[3])
        value = self.file.read(size)
        if self.line() != b"" or self.line() != b"END":
            raise RuntimeError("get %r: a broken answer" % key)
        return value


added = [0] * CLIENTS


def client(path, me):
    try:
        server = Memcached(path)
        for i in range(ROUNDS):
            number = i % 40
            key = b"own:%d:%d" % (me, number)
            if i >= 40 and server.get(key) != value_of(me, number, i // 40 - 1):
                raise RuntimeError("%r has a wrong value in round %d" % (key, i))
            server.set(key, value_of(me, number, i // 40))
            if server.get(key) != value_of(me, number, i // 40):
                raise RuntimeError("%r has a wrong value just after it was set" % key)
            server.ask(b"incr counter 3")
            if server.ask(b"add lot:%d 0 0 1\r\nx" % i) == b"STORED":
                added[me] += 1
            if i % 10 == 9 and server.ask(b"delete " + key) == b"DELETED":
                server.set(key, value_of(me, number, i // 40))
    except (OSError, RuntimeError) as error:
        wrong.append("client %d: %s" % (me, error))


main = Memcached(sys.argv[1])
main.set(b"counter", b"0")
threads = [threading.Thread(target=client, args=(sys.argv[1], i)) for i in range(CLIENTS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if not wrong and main.get(b"counter").strip() != b"%d" % (3 * ROUNDS * CLIENTS):
    wrong.append("the counter is %r, wanted %d" % (main.get(b"counter"), 3 * ROUNDS * CLIENTS))
if not wrong and sum(added) != ROUNDS:
    wrong.append("%d additions of %d keys succeeded" % (sum(added), ROUNDS))
if wrong:
    sys.exit("memcached_client: " + wrong[0])
