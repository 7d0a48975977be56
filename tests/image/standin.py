"""A name server on 127.0.0.77:53 that knows every name under .test as 127.0.0.76, and a listener that prints the address at
which somebody connected, once per address. The first line printed is the listener's port."""

import selectors
import socket
import struct

names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
names.bind(("127.0.0.77", 53))
broker = socket.socket()
broker.bind(("0.0.0.0", 0))
broker.listen()
print(broker.getsockname()[1], flush=True)

selector = selectors.DefaultSelector()
selector.register(names, selectors.EVENT_READ)
selector.register(broker, selectors.EVENT_READ)
seen = set()
while True:
    for key, _ in selector.select():
        if key.fileobj is broker:
            connection, _ = broker.accept()
            address = connection.getsockname()[0]
            connection.close()
            if address not in seen:
                seen.add(address)
                print(address, flush=True)
            continue
        question, asker = names.recvfrom(512)
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton("127.0.0.76") if kind == 1 else b""
        head = question[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, 1 if answer else 0, 0, 0)
        names.sendto(head + question[12:end] + answer, asker)
