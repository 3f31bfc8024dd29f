"""Functions that tests run in workers; it imports nothing of jaxevo."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time


def echo(value, wait=0.0):
    time.sleep(wait)
    return value


def process():
    return os.getpid()


def on_main_thread():
    return threading.current_thread() is threading.main_thread()


def knows_jax():
    return sorted({"jax", "numpy", "jaxevo"} & set(sys.modules))


def hang():
    while True:
        pass


def hang_without_ears():
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    hang()


def end(status):
    os._exit(status)


def fault():
    ctypes.string_at(0)


def flood(count):
    return "x" * count


def fill_memory():
    return len(bytearray(4 << 30))


def prints(value):
    print("a line that nobody asked for")
    os.write(1, b"and another")
    os.write(2, b"and a third")
    return value


def speaks_out_of_turn(message):
    for descriptor in range(3, 10):
        with contextlib.suppress(OSError):
            os.write(descriptor, len(message).to_bytes(4, "big") + message.encode())
    return "late"


def reads():
    return sys.stdin.read()


def raises():
    raise ValueError("two\nlines")


def gives_no_json():
    return {1, 2}


def leaves():
    sys.exit("for good")


def starts_a_child():
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
        os._exit(0)
    return child


NUMBER = 3
