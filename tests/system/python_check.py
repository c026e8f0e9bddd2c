"""Large dicts and lists, checked element by element, then again in forked children that also change them."""
import hashlib
import multiprocessing
import os
import sys

ITEMS = 320000 // int(os.environ.get("EG_SHRINK", "1"))


def text_of(number):
    return "value-%d-" % number + hashlib.md5(b"%d" % number).hexdigest() * (1 + number % 12)


def digest(pairs):
    total = hashlib.sha256()
    for key, value in pairs:
        total.update(b"%d" % key)
        total.update(value.encode())
    return total.hexdigest()


def child(part, parts, results):
    mine = {}
    for key in range(part, ITEMS, parts):
        if table[key] != text_of(key) or numbers[key] != key * key:
            results.put((part, "wrong value at %d" % key))
            return
        if key % 7 == 0:
            table[key] = mine[key] = "child-%d-%d" % (part, key)
            numbers[key] = -key
    for key, value in mine.items():
        if table[key] != value or numbers[key] != -key:
            results.put((part, "lost its own change at %d" % key))
            return
    results.put((part, digest((key, table[key]) for key in range(part, ITEMS, parts))))


table = {}
numbers = []


def main():
    multiprocessing.set_start_method("fork")
    for key in range(ITEMS):
        table[key] = text_of(key)
        numbers.append(key * key)
    print("built", len(table), digest(table.items()), flush=True)
    results = multiprocessing.SimpleQueue()
    children = [multiprocessing.Process(target=child, args=(part, 2, results)) for part in range(2)]
    for process in children:
        process.start()
    # The parent changes its own copy meanwhile; no child may see it.
    for key in range(0, ITEMS, 5):
        table[key] = "parent-%d" % key
    answers = sorted(results.get() for _ in children)
    for process in children:
        process.join()
        print("child", process.exitcode)
    for answer in answers:
        print(*answer)
    for key in range(ITEMS):
        if table[key] != ("parent-%d" % key if key % 5 == 0 else text_of(key)) or numbers[key] != key * key:
            sys.exit("parent: wrong value at %d" % key)
    print("parent", digest(table.items()))
    backwards = sorted(table.items(), key=lambda pair: pair[1])
    print("sorted", digest(backwards))


main()
