from collections.abc import Iterator
from pathlib import Path

import pytest

from aepsl.data.archive import ArchiveReader
from aepsl.resume import parts
from aepsl.resume.interrupt import Interrupted
from aepsl.resume.parts import Entries, resumed, write_resumed
from aepsl.resume.state import State

TOTAL = 10


class Work:
    """Item i gives i % 3 entries; counts what is computed, and fails at an item if told to."""

    def __init__(self, fails_at: int = -1, error: type[BaseException] = RuntimeError) -> None:
        self.computed: list[int] = []
        self._fails_at = fails_at
        self._error = error

    def __call__(self, some: range) -> Iterator[Entries]:
        for number in some:
            if number == self._fails_at:
                raise self._error(15) if self._error is Interrupted else self._error()
            self.computed.append(number)
            yield entries(number)


def entries(number: int) -> Entries:
    return {f"{number}/{name}.png": f"content {number} {name}".encode() * 9 for name in range(number % 3)}


EXPECTED = [entries(number) for number in range(TOTAL)]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state", every=0)


def run(work: Work, state: State) -> list[Entries]:
    return list(resumed(work, total=TOTAL, state=state, label="work"))


@pytest.mark.parametrize("every", [0, 3600])
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("fails_at", [0, 1, 7, 9])
def test_a_run_that_ends_early_goes_on_where_it_was_whatever_ended_it(tmp_path: Path, every: float, error: type[BaseException],
                                                                     fails_at: int) -> None:
    state = State(tmp_path / "state", every)
    with pytest.raises(error):
        run(Work(fails_at, error), state)
    again = Work()
    assert run(again, state) == EXPECTED
    assert again.computed == list(range(fails_at, TOTAL))
    assert state.resumed == (fails_at > 0)


def test_what_was_saved_survives_a_process_that_ends_without_a_word(state: State) -> None:
    computing = resumed(Work(), total=TOTAL, state=state, label="work")
    for _ in range(6):
        next(computing)
    copy = State(state.folder, 0)  # what another process would find: nothing of the first one's memory
    again = Work()
    assert run(again, copy) == EXPECTED
    assert again.computed == [5, 6, 7, 8, 9]  # the sixth item was in its reader's hands and not saved yet


def test_a_reader_that_fails_loses_nothing_that_is_computed(tmp_path: Path) -> None:
    state = State(tmp_path / "state", 3600)

    def read() -> None:
        for number, _ in enumerate(resumed(Work(), total=TOTAL, state=state, label="work")):
            if number == 4:
                raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        read()
    again = Work()
    assert run(again, state) == EXPECTED
    assert again.computed == [5, 6, 7, 8, 9]


def test_nothing_is_kept_without_a_folder() -> None:
    state = State(None, 0)
    with pytest.raises(RuntimeError):
        run(Work(7), state)
    again = Work()
    assert run(again, state) == EXPECTED
    assert again.computed == list(range(TOTAL))


def test_short_work_writes_nothing_and_much_data_is_saved_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(tmp_path / "state", 3600)
    assert run(Work(), state) == EXPECTED
    assert not (tmp_path / "state").exists()
    monkeypatch.setattr(parts, "MOST_BYTES", 100)
    assert run(Work(), state) == EXPECTED
    assert len(list((tmp_path / "state/results").iterdir())) > 2


def test_two_series_of_a_stage_are_kept_apart(state: State) -> None:
    for name in ("confidences", "regions"):
        with pytest.raises(RuntimeError):
            list(resumed(Work(4), total=TOTAL, state=state, label="work", name=name))
    again = Work()
    assert list(resumed(again, total=TOTAL, state=state, label="work", name="regions")) == EXPECTED
    assert again.computed == list(range(4, TOTAL))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign", "missing", "exchanged"])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_damaged_part_is_done_again_and_never_believed(state: State, damage: str, place: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        run(Work(8), state)
    assert state.folder is not None
    files = sorted((state.folder / "results").iterdir())
    assert len(files) == 8
    whole = files[place].read_bytes()
    if damage == "exchanged":
        other = files[place + 1].read_bytes()
        files[place + 1].write_bytes(whole)
        files[place].write_bytes(other)
    elif damage == "missing":
        files[place].unlink()
    else:
        middle = len(whole) // 2
        files[place].write_bytes({"flip": whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1:], "cut": whole[:-5], "empty": b"",
                                  "foreign": b"PK" + bytes(100)}[damage])
    again = Work()
    assert run(again, state) == EXPECTED
    assert again.computed[0] == place
    assert f"is damaged from item {place} on" in capsys.readouterr().err


def test_every_flipped_byte_of_a_part_is_noticed(state: State) -> None:
    with pytest.raises(RuntimeError):
        run(Work(3), state)
    assert state.folder is not None
    folder = state.folder / "results"
    files = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for path, whole in files.items():
        for place in range(len(whole)):
            for other, content in files.items():
                other.write_bytes(content)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
            assert run(Work(), state) == EXPECTED, (path.name, place)


def test_the_archive_of_a_resumed_run_is_that_of_a_whole_one(tmp_path: Path, state: State) -> None:
    head = {"grid.json": b"{}"}
    write_resumed(tmp_path / "whole.zip", Work(), total=TOTAL, state=State(None, 0), label="work", head=head)
    with pytest.raises(RuntimeError):
        write_resumed(tmp_path / "out.zip", Work(6), total=TOTAL, state=state, label="work", head=head)
    assert not (tmp_path / "out.zip").exists()
    write_resumed(tmp_path / "out.zip", Work(), total=TOTAL, state=state, label="work", head=head)
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert ArchiveReader(tmp_path / "out.zip").names() == ["grid.json", *(name for item in EXPECTED for name in item)]
