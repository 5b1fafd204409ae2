"""One file per stage of dvc.yaml; this one is the shell they share.

It alone reads params.yaml: a stage sees the groups it declares and no others, so that what is declared in dvc.yaml
is what can change its result. An explained error ends the stage with status 1 and without a traceback.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # before torch is imported, which is part of what a stage costs
ROOT = Path(__file__).resolve().parents[1]
# Queued experiments run in a copy of the tree: its own package comes first, whatever is installed.
sys.path.insert(0, str(ROOT / "src"))

from aepsl.errors import AepslError  # noqa: E402
from aepsl.params import Params, load_params  # noqa: E402
from aepsl.runtime import record  # noqa: E402


class Declared:
    """The parameters a stage declares: reading any other is a programming error, found by the first run."""

    def __init__(self, params: Any, paths: Sequence[str]) -> None:
        self._params = params
        self._paths = paths

    def __getattr__(self, name: str) -> Any:
        below = [path.partition(".")[2] for path in self._paths if path.partition(".")[0] == name]
        if not below:
            raise AttributeError(f"parameter {name!r} is not among those this stage declares: {list(self._paths)}")
        value = getattr(self._params, name)
        return value if "" in below else Declared(value, below)


def run(main: Callable[..., int], *, params: Sequence[str], options: Sequence[str] = (), unit: str = "images") -> None:
    """Run a stage from the command line.

    Parameters
    ----------
    main : ``main(p, compute, **options) -> int``, how many items it handled. ``p`` holds the declared parameters,
        ``compute`` says where to run.
    params : dotted paths of the parameters it may read, equal to ``params:`` in dvc.yaml.
    options : names of the ``--options``, each a path or a name.
    unit : what is counted.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {main.__module__}", description=sys.modules[main.__module__].__doc__)
    for option in options:
        parser.add_argument(f"--{option}", required=True)
    values = {name.replace("-", "_"): value for name, value in vars(parser.parse_args()).items()}
    stage = Path(sys.modules[main.__module__].__file__ or "").stem
    label = "@".join([stage, *(value for name, value in values.items() if name == "step")])
    try:
        os.chdir(ROOT)
        everything: Params = load_params("params.yaml")
        torch = sys.modules.get("torch")
        if torch is not None and everything.compute.threads:
            torch.set_num_threads(everything.compute.threads)
        count = main(Declared(everything, params), everything.compute, **values)
    except AepslError as error:
        print(f"\n{label}: {error}", file=sys.stderr)
        sys.exit(1)
    record("metrics/runtime.csv", stage=label, seconds=time.perf_counter() - STARTED, count=count, unit=unit)
