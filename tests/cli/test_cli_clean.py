"""``aepsl clean``."""

import fcntl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from typer.testing import Result

from aepsl.data.part import Part
from aepsl.resume.state import opened

Command = Callable[..., Result]


def interrupted(stage: str) -> None:
    """A state as a killed run leaves it."""
    with suppress(KeyboardInterrupt), opened(Path("scratch/state"), stage, {"code": "1"}, every=60, checkout=Path("/some/where")) as state:
        assert state.folder is not None
        (state.folder / "part").write_bytes(b"x" * 2_000_000)
        raise KeyboardInterrupt


def broken_off(name: str) -> Path:
    """A download as a killed run leaves it."""
    target = Path("scratch/downloads") / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with Part(target, checksum="0") as part:
        part.begin("https://example.org/a", None, None)
        part.write(b"y" * 1000)
    return target


def test_leftovers_are_listed_with_their_sizes_and_kept(aepsl: Command) -> None:
    interrupted("classify@r1")
    broken_off("a.tar")
    result = aepsl("clean")
    assert result.exit_code == 0
    assert "classify@r1  2.0 MB" in result.stdout
    assert "in /some/where" in result.stdout
    assert ".a.tar.part" in result.stdout
    assert "left over: 2 items, 2.0 MB; `dvc repro` goes on from it, `aepsl clean --prune` removes it" in result.stdout
    assert len(list(Path("scratch/state").iterdir())) == 1


def test_pruning_removes_them_and_nothing_else(aepsl: Command) -> None:
    interrupted("classify@r1")
    whole = broken_off("a.tar").with_name("b.tar")
    whole.write_bytes(b"z")
    Path("data").mkdir()
    Path("data/images.zip").write_bytes(b"z")
    assert "removed: 2 items" in aepsl("clean", "--prune").stdout
    assert [path.as_posix() for path in sorted(Path().rglob("*")) if path.is_file()] == ["data/images.zip", "scratch/downloads/b.tar"]
    assert aepsl("clean", "--yes").stdout.endswith("scratch/state: nothing left over\n")


def test_a_folder_that_is_no_project_is_told(aepsl: Command) -> None:
    assert "nothing left over; there is no project here (no dvc.yaml)" in " ".join(aepsl("clean").stdout.split())
    Path("dvc.yaml").touch()
    assert aepsl("clean").stdout.endswith("nothing left over\n")


def test_what_a_process_is_at_is_not_touched(aepsl: Command) -> None:
    part = broken_off("a.tar").with_name(".a.tar.part")
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "nothing left over" in aepsl("clean", "--prune").stdout
    assert part.exists()
    assert "removed: 1 item" in aepsl("clean", "--prune").stdout
