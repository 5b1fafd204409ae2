"""What all commands of ``aepsl`` share: help, errors, output, completion."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import Result

from aepsl.cli import compare
from aepsl.cli.app import app
from aepsl.cli.shell import markdown_table, size_text, table
from tests.conftest import ROOT

Command = Callable[..., Result]
HERE = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
COMMANDS = tuple(get_command(app).commands)  # type: ignore[attr-defined]


def call(*words: str | os.PathLike[str], cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own, not on a terminal."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "COLUMNS")}
    return subprocess.run([sys.executable, "-m", "aepsl", *words], cwd=cwd, env=inherited | {"PYTHONPATH": str(ROOT / "src")} | environment,
                          capture_output=True, text=True, errors="surrogateescape", check=False, timeout=600)


def test_the_commands_are_those_that_the_help_shows_in_groups(aepsl: Command) -> None:
    result = aepsl("--help")
    assert result.exit_code == 0
    assert set(COMMANDS) == {"check", "predict", "info", "onnx", "compare", "report", "ablations", "export", "validate", "clean"}
    order = [result.stdout.index(f"─ {panel} ─") for panel in ("Data", "Trained models", "Runs", "Test server", "Upkeep")]
    assert order == sorted(order)
    assert result.stdout.count("  aepsl ") >= 3


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_help_fits_80_columns_and_shows_examples_and_exit_statuses(aepsl: Command, name: str) -> None:
    words = [name, "--help"] if name else ["--help"]
    result = aepsl(*words)
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "Example" in result.stdout
    assert ("Exit status: 0" in result.stdout) == bool(name)
    assert "\x1b" not in result.stdout
    assert "…" not in "".join(line for line in result.stdout.splitlines() if line.startswith("│"))


def test_help_and_versions_need_none_of_the_large_packages() -> None:
    code = ("import sys\nfrom aepsl.cli.app import main\nsys.argv = ['aepsl', sys.argv[1]]\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    assert end.code == 0\nprint('LOADED', *sorted({'torch', 'numpy', 'scipy', 'PIL', 'dvc', 'yaml', 'skimage'} & set(sys.modules)))")
    for word in ("--help", "--version"):
        result = subprocess.run([sys.executable, "-c", code, word], env=HERE, capture_output=True, text=True,
                                check=True, timeout=600)
        assert result.stdout.endswith("\nLOADED\n")


def test_commands_without_a_network_do_not_load_torch(tmp_path: Path) -> None:
    code = ("import sys\nfrom typer.testing import CliRunner\nfrom aepsl.cli.app import app\n"
            "for words in (['clean'], ['check', 'x'], ['compare', 'a'], ['report'], ['validate', 'x'], ['export', 'x', '--out', 'y'],"
            " ['ablations', '--show'], ['predict', 'm', 'lost.jpg', '--out', 'o']):\n"
            "    CliRunner().invoke(app, words)\n    assert 'torch' not in sys.modules and 'dvc' not in sys.modules, words\nprint('none')")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=HERE, capture_output=True,
                            text=True, check=False, timeout=600)
    assert result.stdout == "none\n", result.stderr


def test_a_mistyped_command_gets_a_suggestion(aepsl: Command) -> None:
    result = aepsl("predcit")
    assert result.exit_code == 2
    assert "Did you mean 'predict'?" in result.stderr


def test_a_fault_of_the_program_is_a_sentence_and_debug_shows_where(aepsl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise KeyError("a\x1b[31mb")
    monkeypatch.setattr("aepsl.revisions.snapshot", fail)
    result = aepsl("compare", "main")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "this is a fault of the program, not of your input (KeyError: " in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "\x1b" not in result.stderr
    result = aepsl("--debug", "compare", "main")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in fail" in result.stderr


@pytest.mark.parametrize(("error", "said"), [
    (PermissionError(13, "Permission denied", "some/file"), "some/file: Permission denied: you may not read or write there"),
    (OSError(28, "No space left on device", "x"), "x: No space left on device: the disk is full"),
    (OSError(36, "File name too long", "y\n"), "y\\n: File name too long"),
    (MemoryError(), "memory ran out"),
])
def test_what_the_machine_did_is_told_without_advice_that_belongs_to_the_pipeline(aepsl: Command, monkeypatch: pytest.MonkeyPatch, error: Exception,
                                                                                  said: str) -> None:
    def fail(*words: object) -> None:
        raise error
    monkeypatch.setattr("aepsl.revisions.snapshot", fail)
    result = aepsl("compare", "main")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "run `dvc repro` again" not in result.stderr


def test_a_reader_that_goes_away_ends_it_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -m aepsl --help | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], env=HERE, capture_output=True, text=True, check=True,
                            timeout=600)
    assert result.stderr == ""
    state = tmp_path / "scratch/state"
    for number in range(3000):
        (state / f"left behind by a run that was interrupted, number {number}").mkdir(parents=True)
    command = f"{sys.executable} -m aepsl clean | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=HERE, capture_output=True, text=True,
                            check=True, timeout=600)
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "141"


def test_terminals_of_any_encoding_show_names_of_any_letters(tmp_path: Path) -> None:
    name = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")
    (tmp_path / name).mkdir()
    for environment in ({"LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin-1"}):
        result = call("compare", name, cwd=tmp_path, **environment)
        assert result.returncode == 1
        assert "expected a dvc.lock, found none" in result.stderr
        assert "Traceback" not in result.stderr


def test_output_that_is_no_terminal_has_no_colours_and_no_color_is_heard(tmp_path: Path) -> None:
    for environment in ({}, {"NO_COLOR": "1", "TERM": "xterm-256color"}):
        for words in (("--help",), ("predict",), ("clean",)):
            result = call(*words, cwd=tmp_path, **environment)
            assert "\x1b" not in result.stdout + result.stderr


def test_bash_completes_commands_and_options() -> None:
    def completions(words: str, position: int) -> list[str]:
        return call(_AEPSL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(position)).stdout.split()
    assert completions("aepsl ", 1) == list(COMMANDS)
    assert completions("aepsl pre", 1) == ["predict"]
    assert "--overlay" in completions("aepsl predict --o", 2)
    # It looks which shell has started it; of two commands the shell hands its own process to neither.
    script = subprocess.run(["bash", "-c", '"$0" -m aepsl --show-completion; true', sys.executable], env=HERE, capture_output=True, text=True,
                            check=False, timeout=600).stdout
    assert "complete -o default -F _aepsl_completion aepsl" in script


def test_the_module_and_the_version_are_the_same_command() -> None:
    result = call("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"aepsl \d+\.\d+\.\d+\n", result.stdout)
    text = (ROOT / "pyproject.toml").read_text()
    assert '[project.scripts]\naepsl = "aepsl.cli.app:main"\n' in text


def test_tables_are_as_wide_as_their_cells_and_cells_cannot_break_out() -> None:
    assert table([["a", "b"], ["long", "1"], ["x", "12"]], right=(1,)) == "a      b\n----  --\nlong   1\nx     12"
    assert markdown_table([["a"], ["x|y\n<b>"]]) == "| a |\n| --- |\n| x\\|y\\\\n\\<b\\> |"
    assert [size_text(size) for size in (0, 999, 12_345, 3_400_000, 250_000_000_000)] == ["0 B", "999 B", "12 kB", "3.4 MB", "250 GB"]
    assert compare.brief(0.123456789) == "0.123457"
