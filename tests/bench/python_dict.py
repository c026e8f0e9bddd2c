"""Builds a dict of strings, then looks its items up in random order and checks them."""
import random
import sys

n = int(sys.argv[1])
table = {i: "value %d " % i * 20 for i in range(n)}
order = random.Random(3)
for _ in range(n):
    i = order.randrange(n)
    if not table[i].startswith("value %d " % i):
        sys.exit("wrong value")
print(sum(map(len, table.values())))
