# idea: open descriptors to the end and fill every pipe
# problem: one
# expect: WA
import os

held = []
try:
    while True:
        reader, writer = os.pipe2(os.O_NONBLOCK)
        held.append(reader)
        try:
            while os.write(writer, b"x" * 65536):
                pass
        except BlockingIOError:
            pass
except OSError:
    pass
os.write(1, b"wrong\n")
