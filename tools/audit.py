"""Looks up every locked package in a local copy of an advisory database, without network: ``make audit ADVISORIES=all.zip``.

The copy is a zip of advisories in OSV format, as osv.dev exports per ecosystem, or a folder of them (.json, or .yaml as in PyPA's advisory database).
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from aepsl.errors import AepslError, FaultList
from tools.lock import Pin, read_lock

GET_ONE = ("expected a zip or a folder of advisories in OSV format; get one where there is network: "
           "https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip, or a clone of https://github.com/pypa/advisory-database")


def read_advisories(database: Path) -> Iterator[dict[str, Any]]:
    """Advisories that are not withdrawn; all scalars of YAML are text."""
    if database.is_dir():
        found = ((file, file.read_text(encoding="utf-8")) for file in sorted(database.rglob("*")) if file.suffix in (".json", ".yaml"))
        for file, text in found:
            yield from _parsed(text, str(file), is_json=file.suffix == ".json")
        return
    try:
        with zipfile.ZipFile(database) as archive:
            for name in archive.namelist():
                if name.endswith(".json"):
                    yield from _parsed(archive.read(name).decode(), f"{database}: {name}", is_json=True)
    except (OSError, zipfile.BadZipFile) as error:
        raise AepslError(f"{database}: {error}; {GET_ONE}") from None


def _parsed(text: str, where: str, *, is_json: bool) -> Iterator[dict[str, Any]]:
    try:
        advisory = json.loads(text) if is_json else yaml.load(text, Loader=yaml.BaseLoader)
    except (ValueError, yaml.YAMLError) as error:
        raise AepslError(f"{where}: {error}; {GET_ONE}") from None
    if isinstance(advisory, dict) and "id" in advisory and not advisory.get("withdrawn"):
        yield advisory


def concerns(affected: Mapping[str, Any], version: str) -> bool:
    """Whether an entry of an advisory's ``affected`` covers this version; yes where its bounds cannot be understood, or it states none.

    Source: the evaluation rule of the OSV schema.
    """
    ranges, listed = _ranges(affected), affected.get("versions", ())
    try:
        ours = Version(version)
        return version in listed or any(_inside(events, ours) for events in ranges) or not (ranges or listed)
    except InvalidVersion:
        return True


def _ranges(affected: Mapping[str, Any]) -> list[Sequence[Mapping[str, str]]]:
    return [entry["events"] for entry in affected.get("ranges", ()) if entry.get("type") in ("ECOSYSTEM", "SEMVER")]


def _inside(events: Sequence[Mapping[str, str]], version: Version) -> bool:
    """Walk the bounds upwards: the last one passed decides."""
    inside = not any("introduced" in event for event in events)
    for bound, kind in sorted((Version(bound), kind) for event in events for kind, bound in event.items() if kind != "limit"):
        if version > bound or (version == bound and kind != "last_affected"):
            inside = kind == "introduced"
    return inside


def known_vulnerabilities(pins: Mapping[str, Pin], advisories: Iterator[dict[str, Any]], ignored: Sequence[str] = ()) -> tuple[list[str], int, str]:
    """What concerns the packages, one line per package and vulnerability; how many advisories there are; the newest one's date."""
    count, newest = 0, ""
    found: dict[tuple[str, str], str] = {}
    for advisory in advisories:
        count, newest = count + 1, max(newest, str(advisory.get("modified", "")))
        names = [advisory["id"], *advisory.get("aliases", ())]
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            pin = pins.get(re.sub(r"[-_.]+", "-", package.get("name", "")).lower())
            if pin is None or package.get("ecosystem") != "PyPI" or not concerns(affected, pin.version) or set(names) & set(ignored):
                continue
            if any((pin.name, name) in found for name in names):  # two databases describe the same one
                continue
            fixed = [event["fixed"] for events in _ranges(affected) for event in events if "fixed" in event]
            title = advisory.get("summary") or advisory.get("details", "")
            line = f"{pin.name} {pin.version}: {', '.join(names)}: {' '.join(title.split())[:200]}; fixed in {', '.join(fixed) or 'no version yet'}"
            found.update({(pin.name, name): line for name in names})
    return list(dict.fromkeys(found.values())), count, newest[:10]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 where nothing is known, 1 with a list of what is, or of why it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Look locked packages up in a local copy of an advisory database.")
    parser.add_argument("database", type=Path, help="zip or folder of advisories in OSV format")
    parser.add_argument("locks", type=Path, nargs="+", help="requirements.lock")
    parser.add_argument("--ignore", action="append", default=[], metavar="ID", help="vulnerabilities that were looked at and do not matter here")
    given = parser.parse_args(arguments)
    try:
        # Two lock files may have two versions of a package.
        pins = {lock: read_lock(lock) for lock in given.locks}
        advisories = list(read_advisories(given.database))
        found: list[str] = []
        for lock in given.locks:
            lines, count, newest = known_vulnerabilities(pins[lock], iter(advisories), given.ignore)
            found += [f"{lock.name}: {line}" for line in lines]
        if not count:
            raise AepslError(f"{given.database}: found no advisory in it; {GET_ONE}")
        against = f"{count} advisories, the newest of {newest}"
        if found:
            raise FaultList(f"{len(found)} known vulnerabilities ({against}). Raise the version in requirements.txt and `make lock`, or, where it "
                            "comes with another package, `make lock UPGRADE=1`; what does not matter here: IGNORE=ID", found, shown=len(found))
    except (AepslError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{sum(map(len, pins.values()))} locked packages: no known vulnerability ({against})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
