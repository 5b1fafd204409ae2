import csv
import multiprocessing
from pathlib import Path

from aepsl.runtime import COLUMNS, peak_memory_mib, record


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_row_tells_what_the_stage_cost(tmp_path):
    path = tmp_path / "new/runtime.csv"
    record(path, stage="mine@r1", seconds=4.04, count=10, unit="images")
    [row] = rows(path)
    assert tuple(row) == COLUMNS
    assert (row["stage"], row["seconds"], row["count"], row["unit"], row["per_second"]) == ("mine@r1", "4.0", "10", "images", "2.5")
    assert all(row.values())


def test_rows_are_sorted_by_stage_and_a_second_run_replaces_the_first(tmp_path):
    path = tmp_path / "runtime.csv"
    for stage, count in [("segment", 1), ("classify@r2", 2), ("classify@r1", 3), ("segment", 4)]:
        record(path, stage=stage, seconds=0, count=count, unit="images")
    assert [(row["stage"], row["count"]) for row in rows(path)] == [("classify@r1", "3"), ("classify@r2", "2"), ("segment", "4")]


def test_a_file_of_other_columns_keeps_what_is_known(tmp_path):
    path = tmp_path / "runtime.csv"
    path.write_text("stage,seconds,colour\nmerge,1.0,red\n")
    record(path, stage="mine", seconds=1, count=1, unit="images")
    assert [(row["stage"], row["seconds"]) for row in rows(path)] == [("merge", "1.0"), ("mine", "1.0")]
    assert tuple(rows(path)[0]) == COLUMNS


def write_many(path: Path, name: str) -> None:
    for number in range(25):
        record(path, stage=f"{name}{number:02d}", seconds=1, count=number, unit="images")


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path / "runtime.csv", name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(600)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [row["stage"] for row in rows(tmp_path / "runtime.csv")] == [f"{name}{number:02d}" for name in "ab" for number in range(25)]
    assert not list(tmp_path.glob("*.tmp"))


def test_memory_is_counted_in_mib():
    assert 10 < peak_memory_mib() < 1 << 20


def test_a_damaged_file_is_begun_anew(tmp_path):
    path = tmp_path / "runtime.csv"
    for damaged in (b"\xff", b'stage\n"', b"", b"stage,seconds\n" + b"x" * 200_000, b"seconds\n1\n", b"stage,seconds\na,1,2\nb\n"):
        path.write_bytes(damaged)
        record(path, stage="mine", seconds=1, count=1, unit="images")
        assert [row["stage"] for row in rows(path)] == ["mine"]
