"""The record inside a mined artefact: one entry per round so far, with what that round's classifier reached."""

import json
from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter, parse_json
from aepsl.errors import AepslError, shown

ENTRY = "rounds.json"
MOST_ROUNDS = 255  # a mined pixel holds the number of its round in 8 bits

CURVE = ("epochs", "losses")  # of the round's classifier: lists of the same length


def write_rounds(archive: ArchiveWriter, rounds: list[dict[str, Any]]) -> None:
    """Add the record; the n-th entry tells of the pixels whose value is n."""
    archive.add(ENTRY, json.dumps(rounds, indent=1).encode())


def read_rounds(archive: ArchiveReader) -> list[dict[str, Any]]:
    """The record of a mined artefact, oldest round first."""
    again = "run `dvc repro mine`"
    try:
        rounds = parse_json(archive.text(ENTRY))
    except ValueError as error:
        raise AepslError(f"{archive.describe(ENTRY)} is damaged ({error}); {again}") from error
    if not isinstance(rounds, list) or len(rounds) > MOST_ROUNDS:
        raise AepslError(f"{archive.describe(ENTRY)}: expected a list of at most {MOST_ROUNDS} rounds, found {shown(rounds)}; {again}")
    for entry in rounds:
        if not isinstance(entry, dict) or not isinstance(entry.get("round"), str) or not entry["round"].isprintable():
            raise AepslError(f"{archive.describe(ENTRY)}: expected the name of every round, found {shown(entry)}; {again}")
        epochs, losses = (entry.get(name, []) for name in CURVE)
        if not (isinstance(epochs, list) and isinstance(losses, list) and len(epochs) == len(losses)):
            raise AepslError(f"{archive.describe(ENTRY)}: expected a loss for each of its epochs, found {shown([epochs, losses])} in round "
                             f"{entry['round']}; {again}")
        values = [value for name, value in entry.items() if name not in ("round", *CURVE)]
        if wrong := [value for value in (*values, *epochs, *losses) if type(value) not in (int, float, type(None))]:
            raise AepslError(f"{archive.describe(ENTRY)}: expected numbers, found {shown(wrong[0])} in round {entry['round']}; {again}")
    return rounds
