import itertools
from types import SimpleNamespace

from aepsl import progress as module
from aepsl.progress import duration, pause_between_lines, progress


def clock(monkeypatch, seconds: float) -> None:
    """Every look of the module at the clock finds it ``seconds`` later; a thread that another test left looks at the real one."""
    ticks = itertools.count(0, seconds)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


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


def test_a_batch_counts_for_its_images(capsys, monkeypatch):
    clock(monkeypatch, 20)
    assert list(progress("abc", total=12, label="score", sizes=[4, 6, 2])) == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == ["score: 4/12 images, 0.2 images/s, 40 s left", "score: 10/12 images, 0.2 images/s, 8 s left"]


def test_who_shows_the_lines_says_how_often_they_come(monkeypatch):
    for said, pause in (("2", 2), ("0", 0.1), ("", 15), ("often", 15)):
        monkeypatch.setenv("AEPSL_PROGRESS_EVERY", said)
        assert pause_between_lines() == pause


def test_time_left_is_said_as_people_say_it():
    assert [duration(seconds) for seconds in (0.4, 119, 121, 7000, 7200, 36300)] == ["0 s", "119 s", "2 min", "117 min", "2 h 00 min", "10 h 05 min"]
