"""What git knows of a checkout: it is asked only, without a lock, a prompt or a change."""

import os
import subprocess
from pathlib import Path

from aepsl.errors import AepslError

PATIENCE = 60  # seconds; a checkout on a network's disk can be slow


def ask_git(root: str | os.PathLike[str], *words: str) -> bytes | None:
    """What ``git WORDS`` prints in ``root``, None where git says no: no checkout, no such revision or file.

    Raises
    ------
    AepslError : git is not installed, or did not answer in :data:`PATIENCE` seconds.
    """
    # Optional locks off: a look must not get into the way of a commit that is under way.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        result = subprocess.run(["git", *words], cwd=root, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
                                env=environment)
    except FileNotFoundError:
        if not Path(root).is_dir():
            return None
        raise AepslError("git: expected the program on PATH, found none; install it, or name folders and dvc.lock files instead") from None
    except NotADirectoryError:
        return None
    except subprocess.TimeoutExpired:
        raise AepslError(f"git {words[0]}: no answer in {PATIENCE} s in {root}; see what holds it up there: `git status`") from None
    return result.stdout if result.returncode == 0 else None


def asked_line(root: str | os.PathLike[str], *words: str) -> str:
    """:func:`ask_git` as one text without the space around it; empty where git says no."""
    return (ask_git(root, *words) or b"").decode("utf-8", "replace").strip()
