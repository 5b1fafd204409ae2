import itertools

from aepsl import progress as module
from aepsl.progress import progress


def clock(monkeypatch, seconds: float) -> None:
    """Every look at the clock finds it ``seconds`` later."""
    ticks = itertools.count(0, seconds)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(ticks))


def test_items_pass_through_in_order_and_quick_work_is_silent(capsys):
    assert list(progress(iter("abc"), total=3, label="mine r1")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_lines_tell_rate_and_time_left_on_stderr(capsys, monkeypatch):
    clock(monkeypatch, 10)
    assert list(progress(range(5), total=5, label="mine r1", every=15)) == [0, 1, 2, 3, 4]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["mine r1: 2/5 images, 0.1 images/s, 30 s left", "mine r1: 4/5 images, 0.1 images/s, 10 s left"]


def test_items_are_drawn_one_at_a_time():
    drawn: list[int] = []
    shown = progress((drawn.append(number) or number for number in range(9)), total=9, label="x")
    assert [next(shown), next(shown)] == [0, 1]
    assert drawn == [0, 1]
