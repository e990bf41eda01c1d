# idea: drive the judge's terminal: titles, answers to queries, cleared screens, forged lines
# problem: custom
# expect: WA
import sys

sys.stdout.buffer.write(b"\x1b[2J\x1b[1;1H\x1b]0;owned\x07\x1b[6n\x1bP$q\x1b\\\x9b2J\r\x08\x08\x0e\x7f\xff\xfe" * 50)
