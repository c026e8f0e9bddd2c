#!/usr/bin/env python3
"""A server that answers every control frame in one wrong way: fake_server.py SOCKET WAY [NODE]. With NODE, the socket of a real compute
node, its answers are passed on, but for what WAY says."""
import os
import socket
import struct
import sys
import time

HEAD = struct.Struct("<IBBHIIQQ")
MAGIC = 0x314D4745


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field, value):
    return varint(field << 3) + varint(value)


def text(field, value):
    return varint(field << 3 | 2) + varint(len(value)) + value


def pong(version=1, free=1 << 30, draining=0):
    return text(8, number(1, version) + number(2, 1 << 30) + number(3, free) + number(4, draining))


REPLIES = {
    "version": number(1, 1) + text(2, b"this server speaks version 9"),
    "ping-version": pong(version=9),
    "draining": pong(draining=1),
    "draining-status": number(1, 7) + text(2, b"draining"),
    "full": pong(free=4096),
    "full-status": number(1, 4) + text(2, b"no room"),
    "quota": number(1, 5) + text(2, b"quota of 1M"),
    "refuse": number(1, 8) + text(2, b"out of \x1b[31mred\nink"),
    "other-body": text(6, b""),
    "not-protobuf": b"\xff" * 40,
    "ok": pong(),
}


# What is added to a real node's answer: later fields of a message replace earlier ones.
NODE_CHANGES = {
    "node-version": number(1, 99),
    "node-slots": number(2, 0),
    "node-pages": number(5, 16384),
    "node-draining": number(6, 1),
    "node-kernel": text(7, b"6.6.6-\x1b[31mother") + text(9, b"0123456789abcdef"),
    "node-cpu": text(10, struct.pack("<14I", 1, *[0] * 13)),
    "node-cpu-short": text(10, b"abc"),
}


def node_reply(payload):
    """The NodeReply inside a Reply that holds nothing else."""
    length = 1 + next(i for i in range(1, 10) if payload[i] < 0x80)
    assert payload[0] == 9 << 3 | 2
    return payload[length:]


def ask_real(path, frame):
    with socket.socket(socket.AF_UNIX) as real:
        real.connect(path)
        real.sendall(frame)
        length = HEAD.unpack(real.recv(HEAD.size, socket.MSG_WAITALL))[4]
        return real.recv(length, socket.MSG_WAITALL)


def serve(connection, way):
    head = connection.recv(HEAD.size, socket.MSG_WAITALL)
    if len(head) < HEAD.size:
        return
    magic, kind, flags, status, length, arg, offset, cookie = HEAD.unpack(head)
    body = connection.recv(length, socket.MSG_WAITALL)
    if way == "silent":
        time.sleep(60)
    elif way == "hangup":
        pass
    elif way == "http":
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    elif way == "oversized":
        connection.sendall(HEAD.pack(MAGIC, 1, 0, 0, 0xFFFFFFFF, 0, 0, cookie))
    elif way == "truncated":
        connection.sendall(HEAD.pack(MAGIC, 1, 0, 0, 100, 0, 0, cookie) + b"x" * 10)
    else:
        if way in NODE_CHANGES:
            payload = text(9, node_reply(ask_real(sys.argv[3], head + body)) + NODE_CHANGES[way])
        else:
            payload = REPLIES[way]
        connection.sendall(HEAD.pack(MAGIC, 1, 0, 0, len(payload), 0, 0, cookie) + payload)


def main():
    path, way = sys.argv[1:3]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    while True:
        connection, _ = listener.accept()
        with connection:
            serve(connection, way)


main()
