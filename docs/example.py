#!/usr/bin/env python3
"""A client of qx-node's control socket, with nothing but Python: docs/api.md.

    example.py SOCKET                 list the VMs
    example.py SOCKET VM COMMAND      run a line for the shell in one of them
"""
import socket, sys

STATES = "unknown absent connecting waiting ready stalled queued".split()


def varint(n):
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)


def field(number, value):
    """A field of a message: a number, or text or bytes or another message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def number(data):
    """The number that the iterator's next bytes are."""
    n = shift = 0
    for byte in data:
        n, shift = n | (byte & 127) << shift, shift + 7
        if byte < 128:
            return n


def fields(data):
    """Number to values. Messages inside are bytes, for this function again."""
    found, data = {}, iter(data)
    while (key := number(data)) not in (None, 0):
        kind = key & 7
        size = number(data) if kind in (0, 2) else {1: 8, 5: 4}[kind]
        value = size if kind == 0 else bytes(next(data) for _ in range(size))
        found.setdefault(key >> 3, []).append(value)
    return found


class Node:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file, self.last = self.socket.makefile("rb"), 0

    def ask(self, vm, body):
        """Sends a NodeMessage; gives the bodies that answer it, by their numbers."""
        self.last += 1
        message = field(1, self.last) + field(2, vm) + body
        self.socket.sendall(len(message).to_bytes(4, "big") + message)
        while True:
            answer = fields(self.file.read(int.from_bytes(self.file.read(4), "big")))
            if answer[1] == [self.last]:
                yield answer


def main(path, vm="", line=""):
    if not vm:
        for answer in Node(path).ask("", field(10, b"")):  # list_vms
            vms = fields(answer[50][0])  # vm_list
            for one in map(fields, vms.get(1, [])):
                print(one[1][0].decode(), STATES[one.get(2, [0])[0]])
            if not vms.get(2):  # more
                return 0
    execute = field(11, field(1, line) + field(6, 1))  # command, wait_for_exit
    body = fields(next(Node(path).ask(vm, field(100, execute)))[100][0])
    if 102 in body:  # error
        sys.exit(fields(body[102][0])[3][0].decode())
    result = fields(body[51][0])  # execute_response
    sys.stdout.buffer.write(result.get(2, [b""])[0])
    sys.stderr.buffer.write(result.get(3, [b""])[0])
    return result.get(1, [0])[0]


sys.exit(main(*sys.argv[1:]))
