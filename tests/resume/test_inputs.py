from pathlib import Path

import pytest

from aepsl.errors import AepslError
from aepsl.resume.inputs import checked_md5

HELLO = "5d41402abc4b2a76b9719d911017c592"
LOCK = f"""schema: '2.0'
stages:
  prepare:
    cmd: python -m stages.prepare
    outs:
    - path: data/index.csv
      hash: md5
      md5: {HELLO}
      size: 5
  export:
    cmd: no outs at all
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "saliency")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/index.csv").write_bytes(b"hello")
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path


def test_an_input_as_recorded_is_taken_and_so_is_one_that_no_stage_made(checkout: Path) -> None:
    (checkout / "own.csv").write_bytes(b"hello")
    assert checked_md5(["data/index.csv", "own.csv", "data/gone.zip"]) == {"data/index.csv": HELLO, "own.csv": HELLO, "data/gone.zip": None}


def test_a_changed_input_is_refused_by_name_with_its_maker_and_the_way_out(checkout: Path) -> None:
    (checkout / "data/index.csv").write_bytes(b"hellp")
    with pytest.raises(AepslError, match=rf"data/index\.csv: expected what prepare made, md5 {HELLO} in dvc\.lock, found md5 .* "
                                         r"`rm data/index\.csv && dvc checkout data/index\.csv`\. If the same comes back, .* delete "
                                         rf"files/md5/{HELLO[:2]}/{HELLO[2:]} in .* `dvc pull data/index\.csv` or `dvc repro --force prepare`"):
        checked_md5(["data/index.csv"])


def test_a_missing_input_is_left_to_its_reader(checkout: Path) -> None:
    (checkout / "data/index.csv").unlink()
    assert checked_md5(["data/index.csv"]) == {"data/index.csv": None}


def test_a_stage_started_by_hand_may_read_a_file_made_by_hand(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE")
    (checkout / "data/index.csv").write_bytes(b"other")
    assert set(checked_md5(["data/index.csv"])) == {"data/index.csv"}


def test_a_checksum_that_looks_like_a_number_is_a_checksum(checkout: Path) -> None:
    (checkout / "dvc.lock").write_text(LOCK.replace(HELLO, "00000000000000000000000000000012"))
    with pytest.raises(AepslError, match="md5 00000000000000000000000000000012 in"):
        checked_md5(["data/index.csv"])


@pytest.mark.parametrize("lock", [None, "", "stages: [", "stages: {a: {outs: [1]}}", "a: b", "\x00", "<<<<<<< HEAD\nstages: {}\n"])
def test_an_unreadable_lock_file_is_left_to_dvc(checkout: Path, lock: str | None) -> None:
    (checkout / "dvc.lock").unlink()
    if lock is not None:
        (checkout / "dvc.lock").write_text(lock)
    assert checked_md5(["data/index.csv"]) == {"data/index.csv": HELLO}
