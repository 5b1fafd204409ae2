"""List what interrupted stages left, or remove it.

python -m aepsl.resume           what is left, from which checkout, and how large
python -m aepsl.resume --prune   remove it; the stages will start afresh. What a running stage uses is not touched
"""

import argparse
import os
import shutil
from pathlib import Path

from aepsl.resume.state import default_root, leftovers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m aepsl.resume", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prune", action="store_true", help="remove what is listed")
    prune = parser.parse_args().prune
    root = default_root(Path.cwd())
    found = leftovers(root)
    for left in found:
        print(f"{left.stage:16} {left.size / 1e6:9.1f} MB  started {left.started}  {left.folder.name}  in {left.checkout}")
        if prune:
            shutil.rmtree(left.folder) if left.folder.is_dir() else os.unlink(left.folder)
    print(f"{root}: {'removed' if prune else 'left over'}: {len(found)}" if found else f"{root}: nothing left over")


if __name__ == "__main__":
    main()
