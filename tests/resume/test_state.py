import os
import subprocess
import sys
from pathlib import Path

import pytest

from aepsl.errors import AepslError
from aepsl.resume.state import alone, default_root, fingerprint, leftovers, md5, opened, sweep

KEY = {"parameters": "p", "inputs": "i", "code": "c", "versions": "v"}
# Another process that holds a lock until its stdin closes.
HOLDER = """
import sys
from pathlib import Path
from aepsl.resume.state import alone, opened
{statement}
    print("holding", flush=True)
    sys.stdin.read()
"""


def holding(statement: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER.format(statement=statement)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


def interrupted(root: Path, stage: str, key: dict[str, str]) -> Path:
    """The folder of a run that kept something and then failed."""
    found: list[Path] = []

    def run() -> None:
        with opened(root, stage, key, every=1, checkout=Path("/here")) as state:
            assert state.folder is not None
            found.append(state.folder)
            (state.folder / "work").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    return found[0]


# ---- the fingerprint


def test_a_fingerprint_tells_apart_what_can_change_a_result(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("1")
    one = fingerprint({"mine.threshold": 0.5}, {"images": "ab"}, [code])
    assert fingerprint({"mine.threshold": 0.5}, {"images": "ab"}, [code]) == one

    def differing(other: dict[str, str]) -> set[str]:
        return {name for name in one if one[name] != other[name]}

    assert differing(fingerprint({"mine.threshold": 0.25}, {"images": "ab"}, [code])) == {"parameters"}
    assert differing(fingerprint({"mine.threshold": 0.5}, {"images": None}, [code])) == {"inputs"}
    code.write_text("2")
    assert differing(fingerprint({"mine.threshold": 0.5}, {"images": "ab"}, [code])) == {"code"}


def test_md5_is_that_of_the_content_and_none_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello")
    assert md5(tmp_path / "a") == "5d41402abc4b2a76b9719d911017c592"
    assert md5(tmp_path / "b") is None
    assert md5(tmp_path) is None


def test_the_root_is_in_the_checkout_unless_the_environment_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEPSL_STATE", raising=False)
    assert default_root(tmp_path) == tmp_path / "scratch/state"
    monkeypatch.setenv("AEPSL_STATE", "/elsewhere/state")
    assert default_root(tmp_path) == Path("/elsewhere/state")


# ---- the folder of a run


def test_an_interrupted_run_is_found_again_and_a_finished_one_leaves_nothing(tmp_path: Path) -> None:
    folder = interrupted(tmp_path, "mine@r1", KEY)
    (folder / ".part.999999999.tmp").write_text("killed while it was written")
    with opened(tmp_path, "mine@r1", KEY, every=1, checkout=Path("/here")) as state:
        assert state.folder == folder
        assert (folder / "work").read_text() == "half"
        assert not list(folder.glob(".*.tmp"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_before_it_has_saved_anything_leaves_nothing(tmp_path: Path) -> None:
    def run() -> None:
        with opened(tmp_path, "mine@r1", KEY, every=1, checkout=Path("/here")):
            raise AepslError("a fault in the input")

    with pytest.raises(AepslError):
        run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", KEY)
def test_a_run_of_other_parameters_inputs_code_or_versions_starts_afresh_and_says_why(tmp_path: Path, part: str,
                                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    folder = interrupted(tmp_path, "mine@r1", KEY)
    capsys.readouterr()
    with opened(tmp_path, "mine@r1", KEY | {part: "other"}, every=1, checkout=Path("/here")) as state:
        assert state.folder != folder
        assert state.folder is not None
        assert not (state.folder / "work").exists()
    assert capsys.readouterr().err == f"mine@r1: starts afresh: what an interrupted run left in {folder} was for other {part}\n"
    assert (folder / "work").exists()


def test_another_step_of_the_stage_is_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted(tmp_path, "mine@r1", KEY)
    with opened(tmp_path, "mine@r2", KEY, every=1, checkout=Path("/here")) as state:
        assert state.folder is not None
        assert not (state.folder / "work").exists()
    assert capsys.readouterr().err == ""


def test_two_checkouts_at_the_same_work_do_not_share_a_folder(tmp_path: Path) -> None:
    other = holding(f"with opened(Path({str(tmp_path)!r}), 'mine@r1', {KEY!r}, every=1, checkout=Path('/there')):")
    try:
        taken = set(tmp_path.iterdir())
        with opened(tmp_path, "mine@r1", KEY, every=1, checkout=Path("/here")) as state:
            assert len(taken) == 1
            assert state.folder not in taken
    finally:
        other.communicate("")
    assert other.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    other = holding(f"with opened(Path({str(tmp_path)!r}), 'mine@r1', {KEY!r}, every=1, checkout=Path('/there')):")
    [folder] = tmp_path.iterdir()
    other.kill()
    other.communicate()
    with opened(tmp_path, "mine@r1", KEY, every=1, checkout=Path("/here")) as state:
        assert state.folder == folder


def test_a_root_that_cannot_be_written_is_no_reason_not_to_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").write_text("a file is in the way")
    with opened(tmp_path / "root", "mine@r1", KEY, every=1, checkout=Path("/here")) as state:
        assert state.folder is None
    said = capsys.readouterr().err
    assert str(tmp_path / "root") in said
    assert "AEPSL_STATE names another folder" in said


def test_what_cannot_be_saved_does_not_stop_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(tmp_path, "mine@r1", KEY, every=1, checkout=Path("/here")) as state:
        with state.saving():
            raise OSError(28, "No space left on device")
        assert state.folder is None
    assert "cannot keep what is done so far (No space left on device); the work goes on" in capsys.readouterr().err


# ---- what is left


def test_leftovers_are_those_that_no_process_uses(tmp_path: Path) -> None:
    folder = interrupted(tmp_path, "mine@r1", KEY)
    other = holding(f"with opened(Path({str(tmp_path)!r}), 'mine@r2', {KEY!r}, every=1, checkout=Path('/there')):")
    try:
        [left] = leftovers(tmp_path)
    finally:
        other.communicate("")
    assert (left.folder, left.stage, left.checkout) == (folder, "mine@r1", "/here")
    assert left.size >= 4


def test_a_folder_without_a_readable_description_is_a_leftover_too(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/about.json").write_text("{")
    assert [left.stage for left in leftovers(tmp_path)] == ["unknown"]
    assert leftovers(tmp_path / "nowhere") == []


# ---- one run at a time


def test_a_second_run_in_the_same_checkout_is_refused_by_the_number_of_the_first(tmp_path: Path) -> None:
    other = holding(f"with alone(Path({str(tmp_path)!r}), 'mine@r1'):")
    try:
        said = rf"another run of mine@r1 is at work in this checkout: process {other.pid} since"
        with pytest.raises(AepslError, match=said), alone(tmp_path, "mine@r1"):
            pass
        with alone(tmp_path, "mine@r2"):
            pass
    finally:
        other.communicate("")
    with alone(tmp_path, "mine@r1"):
        pass


def test_the_lock_of_a_killed_process_is_free_at_once_though_its_children_live(tmp_path: Path) -> None:
    code = ("import os, time\nfrom pathlib import Path\nfrom aepsl.resume.state import alone\n"
            f"with alone(Path({str(tmp_path)!r}), 'mine@r1'):\n"
            "    child = os.fork()\n    print(child, flush=True) if child else None\n    time.sleep(30)")
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    child = int(other.stdout.readline())
    other.kill()
    other.wait()
    try:
        with alone(tmp_path, "mine@r1"):
            os.kill(child, 0)
    finally:
        os.kill(child, 9)


# ---- temporary files


def test_temporary_files_of_an_output_and_those_of_dead_processes_in_a_shared_folder_are_swept(tmp_path: Path) -> None:
    """The number of a dead process may belong to another by now: beside an output, which nobody else writes, it does not matter."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    swept = [tmp_path / f".r1.zip.{dead.pid}.tmp", tmp_path / f".r1.zip.{os.getpid()}.tmp", tmp_path / f".r1.zip.{os.getppid()}.tmp",
             tmp_path / f"metrics/.val.json.{dead.pid}.tmp"]
    kept = [tmp_path / f"metrics/.val.json.{os.getppid()}.tmp", tmp_path / f".r2.zip.{dead.pid}.tmp", tmp_path / ".r1.zip.mine.tmp",
            tmp_path / "r1.zip"]
    (tmp_path / "metrics").mkdir()
    for path in swept + kept:
        path.write_text("")
    sweep([str(tmp_path / "r1.zip"), str(tmp_path / "metrics"), str(tmp_path / "absent/out.zip")])
    assert not any(path.exists() for path in swept)
    assert all(path.exists() for path in kept)
