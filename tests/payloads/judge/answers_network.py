# idea: ask the judge's own services on loopback and on abstract sockets
# problem: secret
# expect: WA
# naive: AC
import re
import socket
import sys

case = sys.stdin.readline().split()[1].encode()
places = [(socket.AF_INET, ("127.0.0.1", port)) for port in (80, 2000, 2358, 3000, 5050, 5432, 6379, 8000, 8042, 8080, 9999)]
places += [(socket.AF_INET6, ("::1", 8042)), (socket.AF_UNIX, "\0judge-answers"), (socket.AF_UNIX, "/run/judge.sock")]
for family, place in places:
    try:
        with socket.socket(family) as asked:
            asked.settimeout(0.2)
            asked.connect(place)
            found = re.search(b"token-" + case + b"-[0-9a-f]{32}", asked.recv(4096))
        if found:
            print(found.group().decode())
            sys.exit()
    except OSError:
        pass
print("nothing")
