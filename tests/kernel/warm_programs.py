"""Programs whose outcome a warm interpreter and a cold one must agree on, byte for byte: the table of docs/explanation/warm-interpreters.md.

By name: the program, and what it is given (`args`, `stdin`; `fileonly` for one that makes no sense on a command line).
"""

from __future__ import annotations

from typing import Any

PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {}


def _add(name: str, code: str, **given: Any) -> None:
    PROGRAMS[name] = (code.removeprefix("\n"), given)


_add(
    "hello",
    """
print('hi')""",
)
_add(
    "argv",
    """
import sys
print(sys.argv,sys.orig_argv if hasattr(sys,'orig_argv') else 0)""",
    args=["a", "b c", "-x"],
)
_add(
    "flags",
    """
import sys
print(sys.flags,sys.path,sys.warnoptions,sys._xoptions,sys.executable,sys.prefix,sys.dont_write_bytecode)""",
)
_add(
    "main",
    """
print({k:(v if k!='__builtins__' else type(v)) for k,v in globals().items()})
import sys
print(sys.modules['__main__'].__dict__ is globals())""",
)
_add(
    "modules",
    """
import sys;print(sorted(sys.modules))""",
)
_add(
    "trace",
    """
def f(n):
    return g(n)
def g(n):
    return 1/n
f(0)
""",
)
_add(
    "chain",
    """
try:
    1/0
except Exception as e:
    raise ValueError('x') from e
""",
)
_add(
    "context",
    """
try:
    1/0
except Exception as e:
    raise ValueError('x')
""",
)
_add(
    "group",
    """
raise ExceptionGroup('g',[ValueError(1),KeyError(2)])""",
)
_add(
    "syntax",
    """
def f(:
  pass
""",
)
_add(
    "syntax2",
    """
x = '''abc
""",
)
_add(
    "indent",
    """
if 1:
print(2)
""",
)
_add(
    "warnsyntax",
    r"""
x=1
if x is 1: print('y')
'\d'
""",
)
_add(
    "warnsyntaxerr",
    """
x=1
if x is 1: print('y')
def(
""",
)
_add(
    "exit0",
    """
import sys;sys.exit(0)""",
)
_add(
    "exit3",
    """
import sys;sys.exit(3)""",
)
_add(
    "exitstr",
    """
import sys;sys.exit('bye')""",
)
_add(
    "exitnone",
    """
import sys;sys.exit()""",
)
_add(
    "exitbig",
    """
import sys;sys.exit(300)""",
)
_add(
    "exittuple",
    """
import sys;sys.exit((1,2))""",
)
_add(
    "osexit",
    """
import os;print('lost?');os._exit(7)""",
)
_add(
    "threadexit",
    """
import threading,sys
t=threading.Thread(target=lambda:sys.exit(5));t.start();t.join();print('on')""",
)
_add(
    "threadexc",
    """
import threading
def f():
    1/0
t=threading.Thread(target=f,name='T');t.start();t.join();print('on')""",
)
_add(
    "kbd",
    """
raise KeyboardInterrupt""",
)
_add(
    "kbd2",
    """
import os,signal
os.kill(os.getpid(),signal.SIGINT)
import time;time.sleep(5)""",
)
_add(
    "sigterm",
    """
import os,signal
os.kill(os.getpid(),signal.SIGTERM)
import time;time.sleep(5)""",
)
_add(
    "sigs",
    """
import signal
print([(s,signal.getsignal(s)) for s in sorted(signal.valid_signals())]);print(signal.pthread_sigmask(0,[]))""",
)
_add(
    "enc",
    """
import sys,locale
for s in (sys.stdin,sys.stdout,sys.stderr): print(s.encoding,s.errors,s.line_buffering,s.write_through,s.newlines,s.name,s.mode,type(s.buffer))
print(sys.getfilesystemencoding(),locale.getpreferredencoding(),sys.getdefaultencoding())""",
)
_add(
    "uni",
    """
print('hé中');raise ValueError('中')""",
)
_add(
    "atexit",
    """
import atexit
atexit.register(print,1);atexit.register(print,2)
print(0)""",
)
_add(
    "atexitexc",
    """
import atexit
atexit.register(lambda:1/0);atexit.register(print,2)
raise ValueError('z')""",
)
_add(
    "nondaemon",
    """
import threading,time
threading.Thread(target=lambda:(time.sleep(.2),print('t'))).start();print('m')""",
)
_add(
    "daemon",
    """
import threading,time
threading.Thread(target=lambda:(time.sleep(5),print('t')),daemon=True).start();print('m')""",
)
_add(
    "fork",
    """
import os
pid=os.fork()
if not pid:
    print('child');raise SystemExit(4)
print(os.waitpid(pid,0)[1])""",
)
_add(
    "forkexc",
    """
import os
pid=os.fork()
if not pid:
    1/0
print(os.waitpid(pid,0)[1])""",
)
_add(
    "mp",
    """
import multiprocessing as m
def f(x): return x*x
if __name__=='__main__':
    with m.Pool(2) as p: print(p.map(f,[1,2,3]))""",
)
_add(
    "mpspawn",
    """
import multiprocessing as m
def f(x): return x*x
if __name__=='__main__':
    c=m.get_context('spawn')
    with c.Pool(1) as p: print(p.map(f,[1,2,3]))""",
    fileonly=True,
)
_add(
    "stdin",
    """
import sys;print(sys.stdin.read())""",
    stdin=b"abc\ndef\n",
)
_add(
    "input",
    """
print(input(),input())""",
    stdin=b"abc\ndef\n",
)
_add(
    "inputeof",
    """
print(input())""",
)
_add(
    "binstdin",
    """
import sys
d=sys.stdin.buffer.read()
print(len(d),hash(d)is None,sum(d))""",
    stdin=bytes(range(256)) * 500,
)
_add(
    "childstdin",
    """
import subprocess
print(subprocess.run(['cat'],capture_output=True).stdout)""",
    stdin=b"for cat",
)
_add(
    "fds",
    """
import os;print(sorted(os.listdir('/proc/self/fd')))""",
)
_add(
    "env",
    """
import os
print(dict(os.environ))
os.system('env|sort|grep -v ^_=|grep -v SHLVL')""",
)
_add(
    "cwd",
    """
import os;print(os.getcwd())""",
)
_add(
    "recur",
    """
def f(n):
    try: return f(n+1)
    except RecursionError: return n
print(f(0))""",
)
_add(
    "recurtrace",
    """
def f(n): return f(n+1)
f(0)""",
)
_add(
    "faulth",
    """
import faulthandler;print(faulthandler.is_enabled())""",
)
_add(
    "hook",
    """
import sys
def h(t,v,tb):
    print('hook',t,v,tb.tb_frame.f_code.co_name,tb.tb_lineno,tb.tb_next)
sys.excepthook=h
1/0""",
)
_add(
    "hookraise",
    """
import sys
def h(t,v,tb):
    raise KeyError('in hook')
sys.excepthook=h
1/0""",
)
_add(
    "hookexit",
    """
import sys
def h(t,v,tb):
    sys.exit(9)
sys.excepthook=h
1/0""",
)
_add(
    "nohook",
    """
import sys
del sys.excepthook
1/0""",
)
_add(
    "last",
    """
import sys,atexit
def f():
    t=sys.last_traceback
    print(sys.last_type,sys.last_value,t.tb_lineno,t.tb_frame.f_code.co_name,sys.excepthook is sys.__excepthook__)
atexit.register(f)
1/0""",
)
_add(
    "del",
    """
class A:
    def __del__(self): print('del',__name__)
a=A()
""",
)
_add(
    "delexc",
    """
class A:
    def __del__(self): 1/0
a=A()
del a
print('on')""",
)
_add(
    "warn",
    """
import warnings
warnings.warn('w');warnings.warn('d',DeprecationWarning)""",
)
_add(
    "future",
    """
from __future__ import annotations
def f(x:nope): return 1
print(f(1))""",
)
_add(
    "annot",
    """
x:int=3
print(__annotations__ if '__annotations__' in globals() else 0)""",
)
_add(
    "doc",
    """
'''the doc'''
print(__doc__)""",
)
_add(
    "locals",
    """
print(locals() is globals())
a=1
exec('a=2')
print(a)
print(vars()['a'])""",
)
_add(
    "import",
    """
import json,collections;print(json.dumps({1:2}))""",
)
_add(
    "star",
    """
from os.path import *
print(join('a','b'))""",
)
_add(
    "class",
    """
class A: pass
print(A,A.__module__,A().__class__.__qualname__)
import pickle;print(pickle.loads(pickle.dumps(A)) is A)""",
)
_add(
    "stack",
    """
import sys
print(sys._getframe().f_code.co_name,sys._getframe().f_code.co_filename,sys._getframe().f_lineno)
print(sys._getframe().f_globals is globals(), sys._getframe().f_locals is globals())""",
)
_add(
    "exec",
    r"""
exec('def q(): return 1/0\nq()')""",
)
_add(
    "async",
    """
import asyncio
async def f(): await asyncio.sleep(0);return 3
print(asyncio.run(f()))""",
)
_add(
    "asyncexc",
    """
import asyncio
async def f(): 1/0
asyncio.run(f())""",
)
_add(
    "runpy",
    """
import runpy;print(__spec__,__package__)""",
)
_add(
    "builtins",
    """
print(__builtins__);print(exit,quit,copyright.__class__)""",
)
_add(
    "sigpipe",
    """
import signal
print(signal.getsignal(signal.SIGPIPE),signal.getsignal(signal.SIGXFSZ))""",
)
_add(
    "unraisable",
    """
import sys
class A:
    def __del__(self): raise ValueError(3)
A()
print(9)""",
)
_add(
    "stderr",
    """
import sys
print('e',file=sys.stderr)
print('o')
sys.stderr.write('x')""",
)
_add(
    "closedout",
    """
import sys;sys.stdout.close()""",
)
_add(
    "assert",
    """
assert 0,'no'""",
)
_add(
    "inspect",
    """
import inspect
def f(): pass
try: print(inspect.getsource(f))
except OSError as e: print(e)""",
)
_add(
    "linecache",
    """
import traceback
def f(): 1/0
try: f()
except Exception: traceback.print_exc()""",
)
_add(
    "memerr",
    """
x=bytearray(1<<62)""",
)
_add(
    "sysexit_finally",
    """
import sys
try: sys.exit(2)
finally: print('f')""",
)
_add(
    "genexit",
    """
raise GeneratorExit""",
)
_add(
    "base",
    """
class B(BaseException): pass
raise B(1)""",
)
_add(
    "refcycle",
    """
import sys
class A:
    def __del__(self): print('bye')
a=A();a.a=a""",
)
_add(
    "traceobj",
    """
import sys
try: 1/0
except Exception as e:
    t=e.__traceback__;print(t.tb_frame.f_code.co_name,t.tb_next)""",
)
_add(
    "excinfo",
    """
import sys;print(sys.exc_info())""",
)
_add(
    "ps1",
    """
import sys
print(hasattr(sys,'ps1'),hasattr(sys,'last_type'))""",
)
_add(
    "delglobals",
    """
class A:
    def __init__(s,n): s.n=n
    def __del__(self): print('del',self.n,__name__,A)
a=A(1);b=A(2);_c=A(3);import json;json.x=A(4);import sys;sys.y=A(5);sys.modules['zz']=A(6)""",
)
_add(
    "openfile",
    """
f=open('out.txt','w');f.write('data'*100)
import atexit,os
""",
)
_add(
    "weakfin",
    """
import weakref
class A: pass
a=A();weakref.finalize(a,print,'fin')
b=A();b.b=b;weakref.finalize(b,print,'fin2')""",
)
_add(
    "cycledel",
    """
class A:
    def __del__(s): print('d',s.n)
x=A();y=A();x.o=y;y.o=x;x.n=1;y.n=2
import gc;del x,y;print(gc.collect()>0)""",
)
_add(
    "gencycle",
    """
def g():
    try:
        yield 1
    finally: print('gen closed')
x=g();next(x)""",
)
_add(
    "thrdel",
    """
import threading
l=threading.local()
class A:
    def __del__(s): print('tl')
l.a=A()""",
)
