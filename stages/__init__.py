"""One file per stage of dvc.yaml; this one is the shell they share.

It alone reads params.yaml: a stage sees the groups it declares and no others, so that what is declared in dvc.yaml
is what can change its result. It finds what an interrupted run of the same stage left, refuses a second run beside the first, and
explains what ends a run: status 1 without a traceback for what a user can mend, 128 + n for signal n.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()  # before torch is imported, which is part of what a stage costs
ROOT = Path(__file__).resolve().parents[1]
LACKING = [name for name in ("numpy", "PIL", "pydantic", "torch", "tqdm", "yaml") if find_spec(name) is None]
if LACKING or sys.version_info < (3, 11):  # DVC starts the `python` that is first on PATH, whichever DVC itself is run by
    sys.exit(f"{sys.executable} (Python {sys.version.partition(' ')[0]}) is not the project's environment"
             f"{', it lacks ' + ', '.join(LACKING) if LACKING else ''}.\n"
             "Run `source .venv/bin/activate`, then the command again; where there is no .venv yet, `make setup` makes it.")
# Queued experiments run in a copy of the tree: its own package comes first, whatever is installed.
sys.path.insert(0, str(ROOT / "src"))

from aepsl.resume import interrupt  # noqa: E402

if sys.argv[0] == "-m":  # a stage is being started: torch, which it imports next, takes seconds in which someone may change their mind
    interrupt.install(quietly=True)

from aepsl.errors import AepslError, explained  # noqa: E402
from aepsl.launch import Gone, command_of, explain, follow_up  # noqa: E402
from aepsl.parallel import cluster, loading_workers, usable_cores  # noqa: E402
from aepsl.params import Compute, Params, load_params  # noqa: E402
from aepsl.ranks import Place, Ranks, device_of, joined, launched, place, secondary  # noqa: E402
from aepsl.resume.inputs import checked_md5  # noqa: E402
from aepsl.resume.state import State, alone, default_root, fingerprint, opened, sweep  # noqa: E402
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


def run(main: Callable[..., int], *, params: Sequence[str], inputs: Sequence[str] = (), outputs: Sequence[str] = (), options: Sequence[str] = (),
        unit: str = "images", ranked: bool = False) -> None:
    """Run a stage from the command line.

    Parameters
    ----------
    main : ``main(p, compute, state, **options) -> int``, how many items it handled. ``p`` holds the declared parameters,
        ``compute`` says where to run, ``state`` keeps finished work for the case of an interruption.
    params : dotted paths of the parameters it may read, equal to ``params:`` in dvc.yaml.
    inputs, outputs, options : names of the ``--options`` that are files to read, files or folders to write, and others.
    unit : what is counted.
    ranked : whether several processes can do it together, as ``compute.devices`` and ``compute.launcher`` ask for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {main.__module__}", description=sys.modules[main.__module__].__doc__)
    for option in (*options, *inputs, *outputs):
        parser.add_argument(f"--{option}", required=True)
    values = {name.replace("-", "_"): value for name, value in vars(parser.parse_args()).items()}
    stage = Path(sys.modules[main.__module__].__file__ or "").stem
    label = "@".join([stage, *(value for name, value in values.items() if name == "step")])
    read, written = ([values[name.replace("-", "_")] for name in names] for names in (inputs, outputs))
    here = place() if ranked else Place()
    interrupt.install()
    try:
        os.chdir(ROOT)
        everything: Params = load_params("params.yaml")
        if ranked and not launched() and (command := command_of(everything.compute, stage, sys.argv[1:])):
            follow_up(command, threads=everything.compute.threads)
            return
        torch = sys.modules.get("torch")
        if torch is not None and everything.compute.threads:
            torch.set_num_threads(everything.compute.threads)
        compute = place_of(everything.compute, here)

        @contextmanager
        def at_work(ranks: Ranks) -> Iterator[State]:
            """What the first process alone does for all: lock, sweep, find what is left of an interrupted run."""
            if not ranks.main:
                folder, key = ranks.broadcast(("", ""))
                yield State(Path(folder) if folder else None, compute.save_every, key, ranks=ranks)
                return
            with alone(Path("scratch/locks"), label):
                sweep(written)
                parts = fingerprint({path: value_of(everything, path) for path in params}, checked_md5(read), imported())
                with opened(default_root(ROOT), label, parts, every=compute.save_every, checkout=ROOT) as state:
                    state.ranks = ranks
                    ranks.broadcast((str(state.folder or ""), state.key))
                    yield state

        with joined(here, device=compute.device, precision=compute.precision if ranked else "float32") as ranks, at_work(ranks) as state, \
                cluster(compute.scheduler, ROOT):
            count = main(Declared(everything, params), compute, state, **values)
        if not ranks.main:
            return
        try:
            record("metrics/runtime.csv", stage=label, seconds=time.perf_counter() - STARTED, count=count, unit=unit, resumed=state.resumed)
        except OSError as error:  # the work is done, what it cost is only for reading
            print(f"{label}: metrics/runtime.csv: cannot note what it cost ({error.strerror}); the stage itself is finished", file=sys.stderr)
    except Gone as error:  # who explained it named the stage
        print(error, file=sys.stderr)
        sys.exit(1)
    except interrupt.Interrupted as error:
        interrupt.ignore()
        explain(f"\n{label}: ended by {error}; run `dvc repro` again and it goes on", here)
        sys.exit(128 + error.signum)
    except AepslError as error:
        explain(f"\n{label}: {error}", here)
        sys.exit(1)
    except Exception as error:
        if here.size > 1 and secondary(error):  # the one that ended first explains
            sys.exit(1)
        lines = ""
        if (reason := explained(error)) is None:
            lines = traceback.format_exc()
            reason = ("this is a fault of the program, not of your data; run `dvc repro` again, and if it comes again, report the lines above "
                      "with params.yaml")
        explain(f"{lines}\n{label}: {reason}", here)
        sys.exit(1)
    finally:
        interrupt.ignore()


def place_of(compute: Compute, here: Place) -> Compute:
    """Where this process runs: the number of its workers, and, if it is one of several, its own device and its share of the machine's cores."""
    torch, cores = sys.modules.get("torch"), max(1, usable_cores() // here.local_size)
    gpu = compute.device.startswith("cuda") or (compute.device == "auto" and torch is not None and torch.cuda.is_available())
    compute = compute.model_copy(update={"workers": loading_workers(compute.workers, threads=compute.threads, cores=cores, gpu=gpu)})
    if here.size == 1:
        return compute
    return compute.model_copy(update={"device": device_of(compute.device, here), "processes": compute.processes or cores})


def value_of(params: Params, path: str) -> Any:
    """A parameter or group of them as JSON values."""
    value: Any = params.model_dump(mode="json")
    for name in path.split("."):
        value = value[name]
    return value


def imported() -> list[Path]:
    """The files of this project that this process has imported: all of the code that can change its result."""
    ours = tuple(f"{ROOT / folder}{os.sep}" for folder in ("src", "stages"))
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(Path(file) for file in files if file and file.startswith(ours) and file.endswith(".py"))
