"""Whatever a worker does, its caller gets a value or one line in time; nothing is left over."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxevo.rewards.pool import Pool, WorkerError

FILE = str(Path(__file__).with_name("in_worker.py"))
SLACK = 2.0  # seconds beyond a limit, on a busy machine


@pytest.fixture
def pool():
    pool = Pool(1)
    yield pool
    pool.close()


def call(pool, function, *arguments, seconds=5.0):
    return pool.call(f"{FILE}:{function}", *arguments, seconds=seconds)


def gone(process):
    """Whether a process has ended and was waited for (a zombie is still there)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_value_comes_back(pool):
    value = {"texts": ["ä", "\ud800", ""], "numbers": [1, 2.5, None, True]}
    assert call(pool, "echo", value) == value
    assert call(pool, "on_main_thread") is True
    assert pool.call("math:comb", 5, 2, seconds=5.0) == 10


def test_from_a_thread_it_runs_on_the_main_thread_too(pool):
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(call, pool, "on_main_thread").result() is True


def test_a_worker_starts_without_jax(pool):
    assert call(pool, "knows_jax") == []


def test_a_worker_is_used_again(pool):
    assert call(pool, "process") == call(pool, "process")


@pytest.mark.parametrize("function", ["hang", "hang_without_ears"])
def test_what_hangs_is_killed_and_replaced(pool, function):
    first = call(pool, "process")
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"^it took longer than 0\.3 s and was stopped\.$"):
        call(pool, function, seconds=0.3)
    assert 0.3 <= time.monotonic() - start < 0.3 + SLACK
    assert gone(first)
    assert call(pool, "process") != first


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        ("end", (0,), "its process ended with status 0."),
        ("end", (7,), "its process ended with status 7."),
        ("fault", (), "its process was ended by signal 11 (Segmentation fault)."),
        ("flood", (1 << 20,), "it answered 1048598 bytes, but may answer 1048576 at most."),
    ],
)
def test_what_breaks_a_worker_is_told_in_a_line(pool, function, arguments, reason):
    first = call(pool, "process")
    with pytest.raises(WorkerError) as found:
        call(pool, function, *arguments)
    assert str(found.value) == reason
    assert gone(first)
    assert call(pool, "echo", 1) == 1


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("raises", "ValueError: two lines"),
        ("leaves", "SystemExit: for good"),
        ("gives_no_json", "TypeError: Object of type set is not JSON serializable"),
        ("reads", None),
        ("nothing", f"ValueError: '{FILE}' has no function 'nothing'."),
        ("NUMBER", f"ValueError: 'NUMBER' of '{FILE}' is no function, but of type int."),
    ],
)
def test_what_a_function_raises_leaves_the_worker_as_it_is(pool, function, reason):
    first = call(pool, "process")
    if reason is None:
        assert call(pool, function) == ""
    else:
        with pytest.raises(WorkerError) as found:
            call(pool, function)
        assert str(found.value) == reason[:300]
    assert call(pool, "process") == first


def test_what_cannot_be_imported_is_told_in_a_line(pool):
    with pytest.raises(WorkerError, match=r"'no_such\.module' cannot be imported: ModuleNotFound"):
        pool.call("no_such.module:f", seconds=1.0)


def test_memory_has_a_limit():
    pool = Pool(1, memory=1 << 30)
    first = call(pool, "process")
    with pytest.raises(WorkerError, match=r"^MemoryError"):
        call(pool, "fill_memory")
    assert gone(first)
    assert call(pool, "echo", 1) == 1
    pool.close()


def test_the_length_of_an_answer_is_the_pools_choice():
    pool = Pool(1, answer=100)
    with pytest.raises(WorkerError, match="it answered 122 bytes, but may answer 100 at most"):
        call(pool, "flood", 100)
    assert call(pool, "flood", 10) == "x" * 10
    pool.close()


def test_the_time_to_start_is_the_pools_choice():
    pool = Pool(1, start=0.001)
    with pytest.raises(WorkerError, match=r"it took longer than 0\.001 s and was stopped"):
        call(pool, "echo", 1)
    pool.close()


def test_what_is_printed_does_not_reach_the_protocol(pool):
    assert [call(pool, "prints", n) for n in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("no json", "something that is no JSON"),
        ("[1]", "what was not asked"),
        ('{"value": "early"}', "what was not asked"),
        ('{"id": 1, "value": "old"}', "what was not asked"),
    ],
)
def test_what_is_forged_ends_the_worker(pool, message, reason):
    first = call(pool, "process")
    with pytest.raises(WorkerError, match=f"^it answered ({reason}|more than was asked)"):
        call(pool, "speaks_out_of_turn", message)  # its own answer comes behind
    assert gone(first)
    assert call(pool, "process") != first


def test_requests_and_answers_longer_than_a_pipe(pool):
    text = "x" * 300_000
    assert call(pool, "echo", text) == text


def test_many_threads_keep_their_own_answers():
    pool = Pool(3)
    with ThreadPoolExecutor(12) as threads:
        waits = [0.001 * (n % 7) for n in range(120)]
        found = threads.map(lambda n: call(pool, "echo", n, waits[n]), range(120))
        assert list(found) == list(range(120))
        workers = set(threads.map(lambda _: call(pool, "process"), range(30)))
    assert len(workers) <= 3
    pool.close()
    assert all(map(gone, workers))


def test_one_that_hangs_does_not_disturb_the_others():
    pool = Pool(2)
    with ThreadPoolExecutor(2) as threads:
        late = threads.submit(call, pool, "hang", seconds=0.5)
        assert [call(pool, "echo", n) for n in range(50)] == list(range(50))
        assert isinstance(late.exception(), WorkerError)
    pool.close()


def test_what_a_worker_has_started_ends_with_it(pool):
    child = call(pool, "starts_a_child")
    with pytest.raises(WorkerError):
        call(pool, "hang", seconds=0.3)
    deadline = time.monotonic() + 5.0
    while not ended(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended(child)


def ended(process):
    """As `gone`, or a zombie of somebody else."""
    path = Path(f"/proc/{process}/stat")
    try:
        return path.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_worker_that_died_while_idle_is_replaced_unseen(pool):
    os.kill(call(pool, "process"), 9)
    time.sleep(0.1)
    assert call(pool, "echo", 1) == 1


def test_nothing_is_left_open(pool):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    call(pool, "echo", 1)
    before = descriptors()
    for _ in range(5):
        with pytest.raises(WorkerError):
            call(pool, "end", 1)
        call(pool, "echo", 1)
    assert descriptors() == before


CUT_OFF = """
import os, sys, threading, time
from jaxevo.rewards.pool import Pool
file, how = sys.argv[1:]
pool = Pool(1)
print(pool.call(file + ":process", seconds=5.0), flush=True)
if how == "killed while it hangs":
    threading.Thread(target=pool.call, args=(file + ":hang",), kwargs={"seconds": 0.5}).start()
    time.sleep(0.2)
if how != "ends":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["ends", "killed", "killed while it hangs"])
def test_workers_end_with_the_process_that_started_them(how):
    command = [sys.executable, "-c", CUT_OFF, FILE, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    worker = int(done.stdout)
    deadline = time.monotonic() + 20.0  # the last one ends after 1.5 s on a processor
    while not ended(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended(worker)


FORKS = """
import os, sys
from jaxevo.rewards.pool import Pool
pool, process = Pool(1), sys.argv[1] + ":process"
first = pool.call(process, seconds=5.0)
child = os.fork()
second = pool.call(process, seconds=5.0)
if child == 0:
    assert second != first
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pool.call(process, seconds=5.0) == second == first
"""


def test_a_fork_has_workers_of_its_own():
    command = [sys.executable, "-W", "ignore", "-c", FORKS, FILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_worker_that_cannot_be_started(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(WorkerError, match=r"^no worker could be started: FileNotFoundError"):
        call(pool, "echo", 1)
    monkeypatch.undo()
    assert call(pool, "echo", 1) == 1


def test_a_pool_without_workers_is_refused():
    with pytest.raises(ValueError, match="at least one worker, got size=0"):
        Pool(0)
