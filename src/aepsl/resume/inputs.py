"""Inputs as DVC recorded them: a file that was damaged, exchanged or edited behind DVC's back is refused by name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aepsl.errors import AepslError
from aepsl.resume.state import md5

# Every value as text, for a checksum may look like a number; and several times faster, where libyaml is there.
_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def checked_md5(paths: Sequence[str]) -> dict[str, str | None]:
    """MD5 of each input, None where it is missing, which its reader explains.

    Under DVC, which has written down what every stage before this one made, each is compared with that. DVC itself looks at a file's size
    and date alone, which bit rot does not change.

    Raises
    ------
    AepslError : an input has other content.
    """
    found = {path: md5(Path(path)) for path in paths}
    if "DVC_STAGE" not in os.environ:  # a stage started by hand may well read a file made by hand
        return found
    recorded = _recorded(Path("dvc.lock"))
    for path, digest in found.items():
        if digest is None or path not in recorded:
            continue
        maker, expected = recorded[path]
        if digest != expected:
            raise AepslError(f"{path}: expected what {maker} made, md5 {expected} in dvc.lock, found md5 {digest}: damaged or exchanged since. "
                             f"Run `rm {path} && dvc checkout {path}`. If the same comes back, the copy in DVC's cache is damaged too: delete "
                             f"files/md5/{expected[:2]}/{expected[2:]} in the folder that `dvc cache dir` names, then `dvc pull {path}` or "
                             f"`dvc repro --force {maker}`")
    return found


def _recorded(lock: Path) -> dict[str, tuple[str, str]]:
    """Maker and MD5 of every output in dvc.lock; nothing if it cannot be read, which DVC itself complains about."""
    try:
        stages = _Loader(lock.read_text(encoding="utf-8")).get_single_data()["stages"]
        return {out["path"]: (name, out["md5"]) for name, stage in stages.items() for out in stage.get("outs", ()) if "md5" in out}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return {}
