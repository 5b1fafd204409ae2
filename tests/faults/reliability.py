"""Where the long form of the fault tests counts what it saw: one JSON file, named by the environment, that several test runs may fill."""

import fcntl
import json
import os
from pathlib import Path
from typing import Any


def record(section: str, values: dict[str, Any] | float, *, totals: str = "") -> None:
    """Merge ``values`` into a section of the file that AEPSL_RELIABILITY names, or set it to one number; without the variable nothing happens.

    ``totals`` names a second section, the sums over all parts of the first.
    """
    name = os.environ.get("AEPSL_RELIABILITY")
    if not name:
        return
    target = Path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        text = file.read()
        content: dict[str, Any] = json.loads(text) if text else {}
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
        if totals:
            parts = content[section].values()
            content[totals] = {name: sum(part[name] for part in parts) for name in next(iter(parts))}
        file.truncate(0)
        file.write(json.dumps(content, indent=2, sort_keys=True) + "\n")
