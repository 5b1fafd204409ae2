import math
import os
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from aepsl import parallel
from aepsl.errors import FaultList
from aepsl.parallel import AHEAD, WINDOW, in_processes, loading_workers, read_ahead, usable_cores


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_items(processes):
    assert list(in_processes(math.sqrt, (number**2 for number in range(40)), processes=processes)) == list(range(40))


def test_one_process_is_this_one_and_draws_items_as_they_are_needed():
    drawn: list[int] = []
    results = in_processes(lambda number: (number, os.getpid()), (drawn.append(number) or number for number in range(9)), processes=1)
    assert next(results) == (0, os.getpid())
    assert drawn == [0]


def test_two_processes_are_others():
    assert os.getpid() not in set(in_processes(lambda _: os.getpid(), range(8), processes=2))


def test_items_are_not_drawn_far_ahead_of_the_results():
    drawn: list[int] = []
    results = in_processes(abs, (drawn.append(number) or number for number in range(2000)), processes=2)
    assert next(results) == 0
    assert len(drawn) == 2 * WINDOW
    assert list(results) == list(range(1, 2000))


@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_to_do(processes):
    assert list(in_processes(abs, [], processes=processes)) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_keeps_its_kind_and_message(processes):
    def fail(number: int) -> int:
        if number == 3:
            raise FaultList("3 is bad", ["a", "b"])
        return number

    with pytest.raises(FaultList, match="3 is bad") as caught:
        list(in_processes(fail, range(6), processes=processes))
    assert caught.value.faults == ["a", "b"]


def test_there_is_a_core_to_run_on():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_a_little_work_is_done_here_and_more_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(parallel, "time", SimpleNamespace(monotonic=lambda: now[0]))  # no pause of a busy machine counts as work
    here = os.getpid()
    assert set(in_processes(lambda _: os.getpid(), range(9), processes=2, alone=60.0)) == {here}
    assert here not in set(in_processes(lambda _: os.getpid(), range(8), processes=2, alone=0.0))
    results = in_processes(lambda number: (number, os.getpid()), range(40), processes=2, alone=0.5)
    first = next(results)
    now[0] = 0.6
    rest = list(results)
    assert first == (0, here)
    assert [number for number, _ in rest] == list(range(1, 40))
    assert here not in {process for _, process in rest}


@pytest.mark.parametrize(("wanted", "threads", "cores", "gpu", "found"), [
    (0, 1, 8, False, 0), (5, 0, 2, True, 5), ("auto", 1, 1, False, 0), ("auto", 1, 2, False, 1), ("auto", 1, 64, False, 2),
    ("auto", 0, 64, False, 0), ("auto", 3, 4, False, 1), ("auto", 8, 4, False, 0), ("auto", 1, 1, True, 1), ("auto", 1, 12, True, 11),
    ("auto", 0, 64, True, 16)])
def test_images_are_loaded_by_the_cores_that_the_network_leaves_free(wanted, threads, cores, gpu, found) -> None:
    assert loading_workers(wanted, threads=threads, cores=cores, gpu=gpu) == found


class Heavy:
    """A function that holds much, such as an index, and counts how often it is packed up."""

    packed = 0

    def __call__(self, number: int) -> int:
        return number

    def __getstate__(self) -> dict[str, int]:
        Heavy.packed += 1
        return {}


def test_what_a_function_holds_is_sent_to_a_process_once_and_not_with_every_batch():
    assert list(in_processes(Heavy(), range(300), processes=2)) == list(range(300))
    assert 1 <= Heavy.packed <= 4


def test_items_are_read_ahead_in_order_and_no_further_than_wanted() -> None:
    drawn: list[int] = []
    results = read_ahead(lambda number: (10 // number, threading.get_ident()), (drawn.append(number) or number for number in range(5, -50, -1)))
    for expected in range(5, 0, -1):
        number, reading = next(results)
        assert (number, reading.result()[0]) == (expected, 10 // expected)
        assert reading.result()[1] != threading.get_ident()
        assert drawn[-1] == expected - AHEAD
    number, reading = next(results)
    with pytest.raises(ZeroDivisionError):  # told to whoever asks for the result, and the next ones follow
        reading.result()
    assert next(results)[1].result()[0] == -10
    results.close()
    assert drawn[-1] == -1 - AHEAD
    assert list(read_ahead(abs, [])) == []


def test_where_the_items_end_in_an_error_those_before_it_come_first() -> None:
    def items() -> Iterator[int]:
        yield from (-1, -2)
        raise OSError("the camera is gone")

    results = read_ahead(abs, items())
    assert [next(results)[1].result() for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="the camera is gone"):
        next(results)
