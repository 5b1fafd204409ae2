"""`make setup` on a toy project with real venv and pip: from the lock alone, continued after a kill, one at a time, explained when it fails."""

import base64
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tools import environment as setup

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "toy"
version = "0"
"""
# An editable wheel without setuptools, which the toy's index does not have.
BACKEND = """
import zipfile
def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/toy-0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy.pth", "")
        wheel.writestr("toy-0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: toy\\nVersion: 0\\n")
        wheel.writestr("toy-0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("toy-0.dist-info/RECORD", "toy.pth,,\\ntoy-0.dist-info/METADATA,,\\ntoy-0.dist-info/WHEEL,,\\ntoy-0.dist-info/RECORD,,\\n")
    return "toy-0-py3-none-any.whl"
"""


def wheel(folder: Path, name: str, version: str) -> str:
    """A package ``name`` with a ``version`` and a command ``name-says``; returns its entry in a lock file."""
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": f"version = {version!r}\ndef main(): print(version)\n",
             f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             f"{info}/entry_points.txt": f"[console_scripts]\n{name}-says = {name}:main\n"}
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode() for path, text in files.items()}
    files[f"{info}/RECORD"] = "".join(f"{path},sha256={digests[path]},{len(files[path].encode())}\n" for path in files) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


class Toy:
    """A project with a Makefile, a lock file, and a folder of wheels instead of an index."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock, self.wheels = folder, folder / "requirements.lock", folder.parent / "wheels"
        (folder / "tools").mkdir(parents=True)
        self.wheels.mkdir()
        for name in ("Makefile", "tools/__init__.py", "tools/lock.py", "tools/environment.py"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "backend.py").write_text(BACKEND)

    def locks(self, *packages: tuple[str, str]) -> None:
        self.lock.write_text("".join(wheel(self.wheels, *package) for package in packages))

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE", "MFLAGS", "PYTHON"))}
        offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "SPACE": "any"}
        return subprocess.Popen(["make", *words, f"PYTHON={sys.executable}"], cwd=self.folder, env=clean | offline | environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def make(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.start(*words, **environment)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    @property
    def ready(self) -> bool:
        return (self.folder / ".venv/ready").exists()

    @property
    def packages(self) -> Path:
        return next((self.folder / ".venv/lib").glob("python3*/site-packages"))

    def says(self, name: str) -> str:
        """What the package's command prints, with the interpreter of the environment."""
        return subprocess.run([self.folder / ".venv/bin" / f"{name}-says"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def toy(tmp_path):
    if not (shutil.which("make") and shutil.which("git")):
        pytest.skip("needs make and git, like `make setup`")
    return Toy(tmp_path / "toy project")


def test_only_files_with_the_locked_hash_are_installed_and_a_later_change_or_damage_is_mended(toy):
    toy.locks(("first", "1.0"), ("second", "1.0"))
    right = toy.lock.read_text()
    toy.lock.write_text(right[:-2] + ("0" if right[-2] != "0" else "1") + "\n")
    status, output = toy.make("setup")
    assert status
    assert "a file is not the one that requirements.lock names, and was not installed" in output
    assert not toy.ready
    assert not (toy.packages / "second.py").exists()

    toy.lock.write_text(right)
    assert toy.make("setup")[0] == 0
    assert toy.ready
    assert toy.says("second") == "1.0"
    assert "to install" not in toy.make("setup")[1]
    # As a kill between a package's files and its commands leaves it, and as a power cut leaves a file.
    (toy.packages / "first-1.0.dist-info/INSTALLER").unlink()
    (toy.folder / ".venv/bin/first-says").unlink()
    (toy.packages / "second.py").write_text("")
    (toy.packages / "~hird").mkdir()
    (toy.folder / ".venv/ready").unlink()
    status, output = toy.make("setup")
    assert status == 0
    assert "first 1.0 is unfinished" in output
    assert "second 1.0 is unfinished" in output
    assert toy.says("first") == toy.says("second") == "1.0"
    assert not (toy.packages / "~hird").exists()

    toy.locks(("first", "1.0"), ("second", "2.0"))
    status, output = toy.make("setup")
    assert status == 0
    assert "2 packages locked, 1 to install" in output
    assert toy.says("second") == "2.0"


def test_a_set_up_that_is_killed_anywhere_continues(toy):
    toy.locks(*((f"p{number}", "1.0") for number in range(2 * setup.BATCH + 1)))
    for moment, stop in (("creating .venv", signal.SIGKILL), (" 1/3:", signal.SIGKILL), ("1/", signal.SIGINT), ("/", signal.SIGTERM)):
        process = toy.start("setup")
        assert process.stdout is not None
        seen = next(line for line in process.stdout if moment in line)
        os.killpg(process.pid, stop)
        process.communicate(timeout=300)
        assert process.returncode
        assert not toy.ready, seen
    status, output = toy.make("setup")
    assert status == 0
    assert toy.ready, output
    assert [toy.says(f"p{number}") for number in (0, setup.BATCH, 2 * setup.BATCH)] == ["1.0"] * 3


def test_of_two_at_once_one_waits_and_finds_everything_done(toy):
    toy.locks(("first", "1.0"))
    one = toy.start("setup")
    assert one.stdout is not None
    next(line for line in one.stdout if "creating .venv" in line)
    status, output = toy.make("setup")
    rest, _ = one.communicate(timeout=300)
    assert (status, one.returncode) == (0, 0), output + rest
    assert "another `make setup` is at work here; waiting" in output
    assert "to install" not in output
    assert "to install" in rest
    assert toy.says("first") == "1.0"


def test_without_network_it_says_so_and_names_the_ways_out(toy):
    toy.locks(("first", "1.0"))
    status, output = toy.make("setup", PIP_NO_INDEX="", PIP_FIND_LINKS="", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="1", NO_PROXY="*")
    assert status
    assert "no connection to the package index. Behind a proxy: export HTTPS_PROXY=" in output
    assert not toy.ready
    (toy.wheels / "first-1.0-py3-none-any.whl").unlink()
    status, output = toy.make("setup")
    assert status
    assert "has no file for this machine" in output
    assert "Run `make setup` again to continue" in output
    assert not toy.ready


def test_a_disk_without_room_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda folder: Usage(9 * 10**9, 8 * 10**9, 10**9))
    with pytest.raises(setup.SetupError, match=r"expected \d+\.\d GB free .*found 1\.0 GB.*TMPDIR=.*SPACE=any"):
        setup.check_space(tmp_path, packages=6.5, downloads=3.0)
    setup.check_space(tmp_path, packages=0.4, downloads=0.2)


def test_what_is_installed_already_needs_no_room(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(setup.shutil, "disk_usage", lambda folder: Usage(10**6, 10**6, 0))
    (tmp_path / "file").write_bytes(bytes(2000))
    setup.check_space(tmp_path, packages=2e-6, downloads=2e-6)


def test_a_missing_tool_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(setup.shutil, "which", lambda name: None if name == "git" else f"/bin/{name}")
    with pytest.raises(setup.SetupError, match=r"git is missing.*apt-get install.*xcode-select"):
        setup.check_tools()


@pytest.mark.parametrize(("version", "compiler", "headers", "told"), [
    ((3, 12), True, True, ""), ((3, 11), False, True, "C++ compiler is missing"), ((3, 12), True, False, "Python headers are missing"),
    ((3, 13), True, True, "Python 3.11 and 3.12 alone")])
def test_what_the_compiled_crf_lacks_is_told(tmp_path, monkeypatch, version, compiler, headers, told):
    if headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr(setup.sys, "version_info", version)
    monkeypatch.setattr(setup.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/bin/{name}" if compiler else None)
    assert told in setup.lacking()
    assert bool(told) == bool(setup.lacking())


@pytest.mark.parametrize("compiler", [False, True], ids=["no compiler", "a compiler that fails"])
def test_without_the_compiled_crf_the_environment_is_made_all_the_same(toy, compiler):
    """Its source package is in the lock, and cannot be built."""
    toy.locks(("first", "1.0"))
    package = toy.wheels / f"{setup.OPTIONAL}-1.1.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        for name, text in {"PKG-INFO": f"Metadata-Version: 2.1\nName: {setup.OPTIONAL}\nVersion: 1.1\n", "pyproject.toml":
                           '[build-system]\nrequires = []\nbuild-backend = "broken"\nbackend-path = ["."]\n', "broken.py":
                           "def build_wheel(*_): raise SystemExit('fatal error: permutohedral.h: no such file')\n"}.items():
            entry = tarfile.TarInfo(f"{setup.OPTIONAL}-1.1/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    toy.lock.write_text(toy.lock.read_text() + f"{setup.OPTIONAL}==1.1 --hash=sha256:{hashlib.sha256(package.read_bytes()).hexdigest()}\n")
    tools = toy.folder.parent / "tools"  # all that make needs, no compiler
    tools.mkdir()
    for name in ("git", "make", "sh", "test", "bash", *(("false",) if compiler else ())):
        (tools / ("c++" if name == "false" else name)).symlink_to(shutil.which(name))
    status, output = toy.make("setup", PATH=str(tools))
    assert status == 0, output
    assert "pydensecrf is left out" in output
    assert toy.ready
    assert toy.says("first") == "1.0"
    toy.lock.write_text(toy.lock.read_text()[:-5] + "0000\n")  # a file that is another one is refused, not left out
    status, output = toy.make("setup", PATH=str(tools))
    tried = compiler and sys.version_info < (3, 13) and Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    assert ("was not installed" in output, status != 0) == (tried, tried)


@pytest.mark.parametrize(("message", "told"), [
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "not the one that requirements.lock names"),
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
    ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy Authentication Required'))", "HTTPS_PROXY"),
    ("error: command '/usr/bin/g++' failed with exit code 1", "did not compile"),
    ("ERROR: something new", "messages above")])
def test_what_pip_says_is_explained(message, told):
    assert told in setup.explain(message)


def test_clean_keeps_what_is_in_progress_and_says_so(toy):
    for name in ("scratch/state/segment-1/part.zip", "scratch/downloads/half.tar.part", "scratch/tools/bin/uv", ".venv/bin/python"):
        (toy.folder / name).parent.mkdir(parents=True)
        (toy.folder / name).write_text("x")
    status, output = toy.make("clean")
    assert status == 0
    assert "scratch/state, continued by the next dvc repro" in output
    assert "scratch/downloads" in output
    assert sorted(path.name for path in (toy.folder / "scratch").iterdir()) == ["downloads", "state"]
    assert not (toy.folder / ".venv").exists()
    status, output = toy.make("clean-progress")
    assert status == 0
    assert "scratch/state" in output
    assert not any((toy.folder / "scratch").iterdir())
