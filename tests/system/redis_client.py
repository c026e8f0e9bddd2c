"""Client of the redis test: raw RESP over a unix socket, pipelined, no modules.

Every value is made from its key and a version number, so that each byte that comes back can be checked.
    redis_client.py SOCKET fill KEYS            version 0 of all keys
    redis_client.py SOCKET check KEYS           all keys have version 0
    redis_client.py SOCKET snapshot KEYS        BGSAVE, meanwhile read and overwrite (version 1), then check everything
"""
import hashlib
import random
import socket
import sys
import time

BATCH = 64


def key_of(number):
    return b"key:%08d" % number


def value_of(number, version):
    key = b"%d/%d" % (number, version)
    size = 1000 + int.from_bytes(hashlib.md5(key).digest()[:4], "little") % 6200
    return hashlib.shake_128(key).digest(size)


class Redis:
    def __init__(self, path, deadline_s=20):
        end = time.monotonic() + deadline_s
        while True:
            try:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(60)
                self.sock.connect(path)
                self.file = self.sock.makefile("rb", 1 << 20)
                self.send([[b"PING"]])
                self.reply()
                return
            except (OSError, RuntimeError):  # not there yet, or loading
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def send(self, commands):
        out = []
        for command in commands:
            out.append(b"*%d\r\n" % len(command))
            for part in command:
                out.append(b"$%d\r\n%s\r\n" % (len(part), part))
        self.sock.sendall(b"".join(out))

    def reply(self):
        line = self.file.readline()
        if not line:
            raise RuntimeError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2]
        if kind == b"-":
            raise RuntimeError("redis says: " + rest.decode())
        return rest

    def command(self, *parts):
        self.send([list(parts)])
        return self.reply()

    def info(self, section):
        text = self.command(b"INFO", section.encode()).decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def set_all(self, numbers, version):
        for at in range(0, len(numbers), BATCH):
            part = numbers[at:at + BATCH]
            self.send([[b"SET", key_of(n), value_of(n, version)] for n in part])
            for _ in part:
                if self.reply() != b"OK":
                    raise RuntimeError("SET failed")

    def check_all(self, numbers, version_of):
        wrong = 0
        for at in range(0, len(numbers), BATCH):
            part = numbers[at:at + BATCH]
            self.send([[b"GET", key_of(n)] for n in part])
            for n in part:
                value = self.reply()
                if value != value_of(n, version_of(n)):
                    wrong += 1
                    if wrong <= 5:
                        print("key %d: wrong value (%s bytes)" % (n, "no" if value is None else len(value)))
        if wrong:
            raise RuntimeError("%d of %d values are wrong" % (wrong, len(numbers)))


def main():
    redis, mode, keys = Redis(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    numbers = list(range(keys))
    chance = random.Random(7)
    if mode == "fill":
        redis.set_all(numbers, 0)
        print("used_memory", redis.info("memory")["used_memory"])
    elif mode == "check":
        size = int(redis.command(b"DBSIZE"))
        if size != keys:
            raise RuntimeError("DBSIZE is %d, wanted %d" % (size, keys))
        chance.shuffle(numbers)
        redis.check_all(numbers, lambda n: 0)
    elif mode == "snapshot":
        changed = set()
        redis.command(b"BGSAVE")
        chance.shuffle(numbers)
        under_way = 0
        # Reads and writes go on until a fixed share has been overwritten, saving or not.
        for at in range(0, keys // 4, 256):
            part = numbers[at:at + 256]
            redis.set_all(part, 1)
            changed.update(part)
            other = chance.sample(range(keys), 256)
            redis.check_all(other, lambda n: 1 if n in changed else 0)
            if at % 2048 == 0 and redis.info("persistence")["rdb_bgsave_in_progress"] == "1":
                under_way += 1
        print("polls with the save under way:", under_way)
        end = time.monotonic() + 90
        while redis.info("persistence")["rdb_bgsave_in_progress"] == "1":
            if time.monotonic() > end:
                raise RuntimeError("BGSAVE does not end")
            time.sleep(0.1)
        state = redis.info("persistence")["rdb_last_bgsave_status"]
        if state != "ok":
            raise RuntimeError("BGSAVE ended with status " + state)
        redis.check_all(list(range(keys)), lambda n: 1 if n in changed else 0)
    else:
        sys.exit("usage: redis_client.py SOCKET fill|check|snapshot KEYS")


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, OSError) as error:
        sys.exit("redis_client: %s" % error)
