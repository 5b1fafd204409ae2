"""Reading ``requirements.lock``: a requirements file in which every package has one exact version and the SHA-256 of its files.

Only the standard library, because the environment is built with it.
"""

import re
from pathlib import Path
from typing import NamedTuple

ENTRY = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^\s;]+)( ; (?P<marker>.+?))?(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)")


class Pin(NamedTuple):
    """One package: name in lower case with hyphens, version, where it is needed ("" = everywhere), SHA-256 of its files, its entry on one line."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    entry: str


def read_lock(path: Path) -> dict[str, Pin]:
    """Packages by name.

    Raises
    ------
    ValueError : an entry is none that ``make lock`` writes, or a package has two; the message says where and what to do.
    """
    pins: dict[str, Pin] = {}
    uncommented = re.sub(r"(?m)^ *#.*\n", "", path.read_text(encoding="utf-8"))
    for entry in (" ".join(line.split()) for line in uncommented.replace("\\\n", " ").splitlines() if line.strip()):
        found = ENTRY.fullmatch(entry)
        if not found or found["name"] in pins:
            raise ValueError(f"{path.name}: expected entries `name==version --hash=sha256:…`, one for each name, found {entry[:100]!r}; "
                             f"`git checkout {path.name}`, or make it anew: `make lock`")
        hashes = tuple(word.rpartition(":")[2] for word in found["hashes"].split())
        pins[found["name"]] = Pin(found["name"], found["version"], found["marker"] or "", hashes, entry)
    return pins
