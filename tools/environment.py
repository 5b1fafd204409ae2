"""Creates or completes ``.venv`` from ``requirements.lock``: ``make setup``.

Whatever is installed has its SHA-256 in the lock, the builders of the few source packages too; nothing else is fetched. Broken off at any moment, the
next run goes on: a package counts as installed when all its files are there. ``.venv/ready`` exists when everything is.
Only the standard library.
"""

import csv
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tools.lock import Pin, read_lock

BUILDERS = ("setuptools", "cython")
FROM_SOURCE = ("antlr4-python3-runtime", "pydensecrf2")  # all others come as wheels, and run no code while they are installed
OPTIONAL = "pydensecrf2"  # compiled, and only where that is possible
BATCH = 12  # packages at a time: where pip has no cache, it keeps nothing of a batch that is broken off
GIGABYTE = 1e9
SPACE = {"Linux": (6.5, 3.0), "Darwin": (2.0, 0.7)}  # GB of .venv and of all downloads: on Linux torch comes with CUDA
AGAIN = "Run `make setup` again to continue: finished packages are kept."
NOT_BUILT = "a source package did not compile"
CAUSES = (
    (r"DO NOT MATCH THE HASHES",
     "a file is not the one that requirements.lock names, and was not installed. Usual causes: a mirror or proxy that changes files, a damaged "
     "download (`.venv/bin/python -m pip cache purge`). If it stays so, do not install the file by other means: someone may have replaced it."),
    (r"(?i)No space left|Errno 28|Disk quota",
     "the disk is full. Free some space; TMPDIR=/other/folder puts the downloads elsewhere meanwhile."),
    (r"(?i)NewConnectionError|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|CERTIFICATE|Max retries|Connection (broken|reset)",
     "no connection to the package index. Behind a proxy: export HTTPS_PROXY=http://user:password@host:port, and PIP_CERT=file.pem if it has a "
     "certificate of its own. A mirror: PIP_INDEX_URL=…. Without network: docs/security.md, \"Dependencies\"."),
    (r"(?i)No matching distribution|Could not find a version",
     "the package index (or the folder PIP_FIND_LINKS) has no file for this machine. Expected: Linux with glibc 2.28 or later on x86-64 or aarch64, "
     "or macOS 14 on Apple silicon, with Python 3.11 to 3.13. A mirror may also be behind."),
    (r"(?i)command '.*(cc|[cg]\+\+|clang).*' failed|fatal error:|Failed (to build|building)",
     NOT_BUILT + "; its first \"error:\" above tells why."),
)


class SetupError(Exception):
    """What is missing or went wrong, and what to do about it."""


def say(text: str) -> None:
    print(f"make: {text}", flush=True)


def check_tools() -> None:
    """Everything that must be on the machine already."""
    if not (find_spec("venv") and find_spec("ensurepip")):
        raise SetupError(f"{sys.executable} has no venv module; Debian and Ubuntu: apt-get install python3-venv")
    if not shutil.which("git"):
        raise SetupError("git is missing; Debian and Ubuntu: apt-get install git; macOS: xcode-select --install")


def lacking() -> str:
    """What :data:`OPTIONAL` lacks to be built here, and how to get it; "" = nothing."""
    if sys.version_info >= (3, 13):
        return "it builds on Python 3.11 and 3.12 alone: make setup PYTHON=/path/to/python3.12"
    if not (shutil.which("c++") or shutil.which("g++")):
        return "a C++ compiler is missing; Debian and Ubuntu: apt-get install g++; macOS: xcode-select --install"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "the Python headers are missing; Debian and Ubuntu: apt-get install python3-dev"
    return ""


def left_out(why: str) -> str:
    return (f"pydensecrf is left out, and nothing needs it unless refine.backend is pydensecrf: {why}. "
            "To have it after all: mend that, rm .venv/ready, and make setup again.")


def check_space(environment: Path, *, packages: float, downloads: float) -> None:
    """Room for ``packages`` GB, less what is there, and twice ``downloads`` GB, unpacked and in pip's cache; added up where these share a disk."""
    there = sum(file.lstat().st_size for file in environment.rglob("*") if not file.is_dir()) / GIGABYTE
    left = max(0.0, 1 - there / packages)
    temporary = Path(tempfile.gettempdir())
    wanted = [(environment, packages * left), (temporary, downloads * left)]
    if "PIP_NO_CACHE_DIR" not in os.environ and Path.home().exists():
        wanted.append((Path.home(), downloads * left))
    for folder in (environment, temporary):
        least = sum(size for other, size in wanted if other.stat().st_dev == folder.stat().st_dev)
        free = shutil.disk_usage(folder).free / GIGABYTE
        if free < least:
            raise SetupError(f"{folder}: expected {least:.1f} GB free for packages, downloads and pip's cache, found {free:.1f} GB. Free some, or "
                             "put downloads elsewhere (TMPDIR=/other/folder), or do without a cache (PIP_NO_CACHE_DIR=1). "
                             "`make setup SPACE=any` goes on regardless.")


@contextmanager
def alone(environment: Path) -> Iterator[int]:
    """Waits until no other set-up works on this environment. Yields a descriptor: the lock lasts while any process holds it."""
    environment.mkdir(exist_ok=True)
    descriptor = os.open(environment, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another `make setup` is at work here; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems
            say(f"this file system cannot lock folders ({error.strerror}): do not run `make setup` twice at once here")
        yield descriptor
    finally:
        os.close(descriptor)


def installed(packages: Path) -> dict[str, str]:
    """Versions by name, of packages that are whole. What a broken-off installation left unfinished is forgotten, so that pip installs it again."""
    versions = {}
    for folder in packages.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").rpartition("-")
        if _whole(folder):
            versions[re.sub(r"[-_.]+", "-", name).lower()] = version
        else:
            say(f"{name} {version} is unfinished or damaged: it is installed again")
            shutil.rmtree(folder)
    for replaced in packages.glob("~*"):  # where pip puts the old version meanwhile
        shutil.rmtree(replaced)
    return versions


def _whole(info: Path) -> bool:
    """Whether pip came to its last step, listing its own mark, and each file has the size listed (a power cut leaves empty ones)."""
    try:
        with (info / "RECORD").open(encoding="utf-8", newline="") as file:
            sizes = {name: size for name, _, size in csv.reader(file)}
        return f"{info.name}/INSTALLER" in sizes and all(not size or (info.parent / name).stat().st_size == int(size) for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def explain(output: str) -> str:
    """What pip's messages mean and what to do."""
    return next((cause for pattern, cause in CAUSES if re.search(pattern, output)), "pip's messages above tell why.")


def pip_install(python: Path, arguments: Sequence[str], descriptor: int) -> None:
    """Run ``pip install`` with the lock in its hands too, so that it stays locked even if this process alone is killed."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", *arguments]
    # Old versions of pip would otherwise run setup.py themselves; new ones know no other way and have no such option.
    settings = os.environ | {"PIP_USE_PEP517": "1"}
    with subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True, errors="replace", pass_fds=(descriptor,)) as process:
        assert process.stderr is not None
        output = ""
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                output += line
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SetupError(f"the installation stopped: {explain(output)} {AGAIN}")


def batches(missing: Sequence[Pin]) -> list[list[Pin]]:
    """First what builds, then the rest a dozen at a time, last what may fail."""
    builders, last = ([pin for pin in missing if pin.name in names] for names in (BUILDERS, (OPTIONAL,)))
    rest = [pin for pin in missing if pin.name not in (*BUILDERS, OPTIONAL)]
    return [batch for batch in (builders, *(rest[start:start + BATCH] for start in range(0, len(rest), BATCH)), last) if batch]


def set_up(root: Path, *, check_disk: bool) -> None:
    """Make ``root/.venv`` what ``root/requirements.lock`` says, and the project importable in it."""
    environment, lock = root / ".venv", root / "requirements.lock"
    python, ready, listed = environment / "bin/python", environment / "ready", environment / "batch.txt"
    goal = "".join(f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in (lock.name, "pyproject.toml"))
    with alone(environment) as descriptor:
        if ready.is_file() and ready.read_text() == goal:
            ready.touch()
            return
        ready.unlink(missing_ok=True)
        pins = read_lock(lock)
        check_tools()
        if OPTIONAL in pins and (why := lacking()):
            say(left_out(why))
            del pins[OPTIONAL]
        if check_disk:
            packages, downloads = SPACE.get(platform.system(), SPACE["Linux"])
            check_space(environment, packages=packages, downloads=downloads)
        if not python.exists() or subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
            say("creating .venv")
            subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        have = {name: version for packages in environment.glob("lib/python3*/site-packages") for name, version in installed(packages).items()}
        missing = [pin for pin in pins.values() if have.get(pin.name) != pin.version]
        large = " (torch alone is some gigabytes: a few minutes)" if any(pin.name == "torch" for pin in missing) else ""
        say(f"{len(pins)} packages locked, {len(missing)} to install, each file checked by SHA-256{large}")
        for number, batch in enumerate(batches(missing), 1):
            say(f"{number}/{len(batches(missing))}: {batch[0].name}" + (f" … {batch[-1].name}" if len(batch) > 1 else ""))
            listed.write_text("".join(f"{pin.entry}\n" for pin in batch))
            checked = ["--require-hashes", "--only-binary", ":all:", "--no-binary", ",".join(FROM_SOURCE)]
            try:
                pip_install(python, [*checked, "--requirement", str(listed)], descriptor)
            except SetupError as error:
                if batch[0].name != OPTIONAL or NOT_BUILT not in str(error):
                    raise
                say(left_out("it did not compile, as its messages above tell"))
        pip_install(python, ["--editable", str(root)], descriptor)
        consistent = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True, check=False)
        if consistent.returncode:
            raise SetupError("expected packages that fit together, found (left over from before: rm -r .venv; in the lock file: make lock)\n"
                             + consistent.stdout + consistent.stderr)
        listed.unlink(missing_ok=True)
        waiting = ready.with_suffix(".tmp")
        waiting.write_text(goal)
        waiting.replace(ready)


def main() -> int:
    """Exit status 0, 1 with an explanation, or 128 + the signal that stopped it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        set_up(Path(__file__).resolve().parents[1], check_disk=os.environ.get("SPACE") != "any")
    except KeyboardInterrupt:
        say(f"stopped. {AGAIN}")
        return 128 + signal.SIGINT
    except subprocess.CalledProcessError as error:
        say(f"`{' '.join(map(str, error.cmd))}` failed with status {error.returncode}. {AGAIN}")
        return 1
    except OSError as error:
        say(f"{error.filename or '.venv'}: {error.strerror}. {AGAIN}")
        return 1
    except (SetupError, ValueError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
