"""requirements.lock is complete, exact, hashed, the same for everybody, and what is installed."""

import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import BUILDERS, FROM_SOURCE
from tools.lock import read_lock

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "tools/requirements.lock")
PINS = read_lock(ROOT / "requirements.lock")
MACHINES = {f"{system}-{machine}-{python}": {
    "python_version": python, "python_full_version": f"{python}.9", "sys_platform": system.lower(), "platform_system": system, "os_name": "posix",
    "platform_machine": machine, "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": ""}
    for python, (system, machine) in product(("3.11", "3.12", "3.13"), (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")))}


def asked_for(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def installed() -> Iterator[importlib.metadata.Distribution]:
    return (found for found in importlib.metadata.distributions() if canonicalize_name(found.name) in PINS)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_direct_pin_is_in_the_lock(lock):
    pins = read_lock(ROOT / lock)
    for asked in asked_for(lock.replace(".lock", ".txt")):
        assert str(asked.specifier) == f"=={pins[canonicalize_name(asked.name)].version}", asked


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_host_and_no_folder_of_a_machine(lock):
    text = (ROOT / lock).read_text()
    assert not re.findall(r"(?m)^.*(?:://|\.org|\.com|index-url|find-links|(?<![a-z])/|~/| @ ).*$", text)


def test_the_crf_is_locked_where_it_builds():
    assert Marker(PINS["pydensecrf2"].marker).evaluate({"python_full_version": "3.12.9"})
    assert not Marker(PINS["pydensecrf2"].marker).evaluate({"python_full_version": "3.13.0"})


@pytest.mark.parametrize("entry", ["numpy", "numpy==2.4.6", "numpy>=2.4.6 --hash=sha256:" + "0" * 64, "numpy==2.4.6 --hash=md5:" + "0" * 32,
                                   "numpy==2.4.6 --hash=sha256:0", "numpy @ file:///numpy.whl --hash=sha256:" + "0" * 64,
                                   "--index-url elsewhere", "numpy==2.4.6 --hash=sha256:" + "0" * 64 + "\nnumpy==2.4.5 --hash=sha256:" + "0" * 64])
def test_entries_without_exact_version_and_hash_are_refused_by_name(tmp_path, entry):
    (tmp_path / "some.lock").write_text(f"{entry}\n")
    with pytest.raises(ValueError, match=r"^some\.lock: expected .* found .*make lock"):
        read_lock(tmp_path / "some.lock")


def test_an_entry_is_read_over_its_lines(tmp_path):
    (tmp_path / "some.lock").write_text("# made by\n#    make lock\na-b==1.0 ; sys_platform == 'linux' \\\n"
                                        f"    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64}\n    # via -r requirements.txt\n")
    pin = read_lock(tmp_path / "some.lock")["a-b"]
    assert (pin.version, pin.marker, pin.hashes) == ("1.0", "sys_platform == 'linux'", ("1" * 64, "2" * 64))
    assert pin.entry == f"a-b==1.0 ; sys_platform == 'linux' --hash=sha256:{'1' * 64} --hash=sha256:{'2' * 64}"


def test_the_bounds_of_the_project_allow_the_pins():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = chain(*project["project"]["optional-dependencies"].values())
    for bound in map(Requirement, chain(project["project"]["dependencies"], optional, project["build-system"]["requires"])):
        assert PINS[canonicalize_name(bound.name)].version in bound.specifier, bound


def test_what_builds_source_packages_is_locked():
    assert PINS.keys() >= {*BUILDERS, *FROM_SOURCE}
    assert PINS["cython"].version == "0.29.36"  # the one that pydensecrf2 asks for


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_whatever_a_locked_package_needs_is_locked_on_every_machine(machine):
    checked = 0
    for package in installed():
        own = PINS[canonicalize_name(package.name)]
        if package.version != own.version or (own.marker and not Marker(own.marker).evaluate(machine)):
            continue  # another version may need other packages, and there may be none on that machine
        for need in map(Requirement, package.requires or ()):
            if need.marker and not need.marker.evaluate(machine):
                continue
            pin = PINS.get(canonicalize_name(need.name))
            assert pin, f"{package.name} needs {need}, which is not locked"
            assert need.specifier.contains(pin.version, prereleases=True), f"{package.name} needs {need}, locked is {pin.version}"
            assert not pin.marker or Marker(pin.marker).evaluate(machine), f"{package.name} needs {need}, locked only where {pin.marker}"
            checked += 1
    if not checked:
        pytest.skip("no locked version is installed here")


def test_what_is_installed_is_what_is_locked():
    if not (ROOT / ".venv").is_dir() or not (ROOT / ".venv").samefile(sys.prefix):
        pytest.skip("runs in an environment that `make setup` did not make")
    here = {canonicalize_name(package.name): package.version for package in installed()}
    assert here == {name: pin.version for name, pin in PINS.items() if not pin.marker or Marker(pin.marker).evaluate()}
