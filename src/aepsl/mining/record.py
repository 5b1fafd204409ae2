"""The record inside a mined artefact: one entry per round so far, with what that round's classifier reached."""

import json
from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter

ENTRY = "rounds.json"


def write_rounds(archive: ArchiveWriter, rounds: list[dict[str, Any]]) -> None:
    """Add the record; the n-th entry tells of the pixels whose value is n."""
    archive.add(ENTRY, json.dumps(rounds, indent=1).encode())


def read_rounds(archive: ArchiveReader) -> list[dict[str, Any]]:
    """The record of a mined artefact, oldest round first."""
    rounds: list[dict[str, Any]] = json.loads(archive.read(ENTRY))
    return rounds
