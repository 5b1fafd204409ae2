"""git is asked, never waited for in vain, and what it does not know is no fault."""

import os
from pathlib import Path

import pytest

from aepsl import git
from aepsl.errors import AepslError


def program(folder: Path, script: str) -> None:
    path = folder / "git"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_what_git_does_not_know_is_none(tmp_path: Path) -> None:
    assert git.ask_git(tmp_path, "rev-parse", "HEAD") is None
    assert git.ask_git(tmp_path / "nowhere", "rev-parse", "HEAD") is None
    (tmp_path / "file").touch()
    assert git.ask_git(tmp_path / "file", "rev-parse", "HEAD") is None
    assert git.asked_line(tmp_path, "rev-parse", "HEAD") == ""
    assert git.asked_line(tmp_path, "--version").startswith("git version")


def test_it_is_told_to_take_no_lock_and_to_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, 'echo " $GIT_OPTIONAL_LOCKS $GIT_TERMINAL_PROMPT $LC_ALL $* "; cat')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert git.ask_git(tmp_path, "a", "b c") == b" 0 0 C a b c \n"
    assert git.asked_line(tmp_path, "a") == "0 0 C a"


def test_without_git_or_without_an_answer_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "exec sleep 60")
    monkeypatch.setattr(git, "PATIENCE", 0.2)
    with monkeypatch.context() as slow:
        slow.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(AepslError, match=r"git status: no answer in 0\.2 s"):
            git.ask_git(tmp_path, "status")
    (tmp_path / "git").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AepslError, match="expected the program on PATH"):
        git.ask_git(tmp_path, "status")
