"""The processes that do one stage together: who they are, on which device each works, and how they meet. On Lightning Fabric.

A process alone in float32 needs nothing of this, and Fabric is imported only where there are others, or another precision.
"""

import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aepsl.errors import AepslError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
GROUP = "AEPSL_GROUP"  # folder in which launched processes say why they ended; the process that launched them reads it
SHELL = "AEPSL_SHELL"  # host and number of that process
PATIENCE = timedelta(days=1)  # of a process that waits for another one; those that die are noticed at once


@dataclass(frozen=True)
class Place:
    """Where in its group a process stands.

    Attributes
    ----------
    rank, size : its number in the group, and how many there are.
    local_rank, local_size : the same on its machine.
    slurm : started by srun; otherwise by torchrun.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    slurm: bool = False


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place that torchrun or srun gave this process; that of a process alone where neither did."""
    def number(name: str, otherwise: int) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdecimal() else otherwise

    if "TORCHELASTIC_RUN_ID" in environment:
        size = number("WORLD_SIZE", 1)
        return Place(number("RANK", 0), size, number("LOCAL_RANK", 0), number("LOCAL_WORLD_SIZE", size))
    # A batch script of SLURM has these variables too; only what we had srun start is one of several.
    if GROUP in environment and "SLURM_PROCID" in environment:
        size = number("SLURM_NTASKS", 1)
        return Place(number("SLURM_PROCID", 0), size, number("SLURM_LOCALID", 0), number("SLURM_NTASKS_PER_NODE", size), slurm=True)
    return Place()


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun or srun started this process, be it the only one."""
    return "TORCHELASTIC_RUN_ID" in environment or (GROUP in environment and "SLURM_PROCID" in environment)


class Ranks:
    """One process's view of its group.

    Parameters
    ----------
    place : where it stands.
    device : what it computes on, such as "cuda:3"; "" = none: it computes alone.
    precision : of the networks, as ``compute.precision``.
    """

    def __init__(self, place: Place = Place(), *, device: str = "", precision: str = "float32") -> None:
        self.rank, self.size, self.main = place.rank, place.size, place.rank == 0
        self._place, self._device, self._precision = place, device, precision

    @cached_property
    def fabric(self) -> Any:
        """Lightning Fabric for this group, or None for a process alone in float32."""
        if not self._device:
            return None
        from aepsl.networks.devices import pick_device, pick_precision

        device = pick_device(self._device)
        number_format = str(pick_precision(self._precision, device)).removeprefix("torch.")
        if self.size == 1 and number_format == "float32":
            return None
        precision: Any = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}[number_format]
        import logging

        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        if self.size == 1:
            return Fabric(accelerator=device.type, devices=[device.index or 0] if device.type == "cuda" else 1, precision=precision)
        # Batch norm statistics are equal everywhere: each process computes them of all images.
        strategy = DDPStrategy(timeout=PATIENCE, broadcast_buffers=False)
        fabric = Fabric(accelerator=device.type, devices=self._place.local_size, num_nodes=self.size // self._place.local_size, strategy=strategy,
                        precision=precision, plugins=[SLURMEnvironment() if self._place.slurm else TorchElasticEnvironment()])
        fabric.launch()
        return fabric

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            self.fabric.barrier()

    def broadcast(self, value: T) -> T:
        """What the main process gives."""
        return cast(T, self.fabric.broadcast(value)) if self.size > 1 else value

    def total(self, values: "torch.Tensor") -> "torch.Tensor":
        """The sum of a tensor over the processes."""
        return cast("torch.Tensor", self.fabric.all_reduce(values, reduce_op="sum")) if self.size > 1 else values

    def share(self, total: int, rank: int | None = None) -> range:
        """Which of ``total`` items a process does, this one by default: contiguous, their numbers differ by one at most, the first have more."""
        least, more = divmod(total, self.size)
        first = (self.rank if rank is None else rank) * least + min(self.rank if rank is None else rank, more)
        return range(first, first + least + ((self.rank if rank is None else rank) < more))

    # ---- training

    def set_up(self, module: Any, optimiser: Any) -> tuple[Any, Any]:
        """The module and its optimiser as they are to be called: gradients are averaged over the processes, sums kept in float32."""
        if self.fabric is None:
            return module, optimiser
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the module is called as a whole, which is all that Fabric asks for
            module, optimiser = self.fabric.setup(module, optimiser)
        return module, optimiser

    def backward(self, loss: "torch.Tensor", module: Any) -> None:
        """Add the gradients of a loss to those of the module's parameters."""
        if self.fabric is None:
            loss.backward()
        else:
            self.fabric.backward(loss, model=module)

    def unshared(self, module: Any, unshared: bool) -> AbstractContextManager[Any]:
        """In this block gradients stay with their process: others of the same step follow."""
        return self.fabric.no_backward_sync(module, enabled=unshared) if self.size > 1 else nullcontext()

    def precision_state(self) -> dict[str, Any]:
        """What the precision must remember between two steps; empty for all but float16."""
        return {} if self.fabric is None else dict(self.fabric.strategy.precision.state_dict())

    def load_precision_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`precision_state` gave; a state that another precision left changes nothing."""
        if self.precision_state().keys() == state.keys() and state:
            self.fabric.strategy.precision.load_state_dict(state)


ALONE = Ranks()


def device_of(name: str, here: Place) -> str:
    """The device of one of several processes, such as "cuda:3", from ``compute.device``.

    Raises
    ------
    AepslError : one device was named for all, or the machine has fewer than processes.
    """
    import torch

    if name.startswith("cuda:") or name == "mps":
        raise AepslError(f"compute.device: expected auto, cpu or cuda for {here.size} processes, found {name}, which they cannot share")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if (found := torch.cuda.device_count()) < here.local_size:
        raise AepslError(f"compute.devices: {here.local_size} processes on this machine want a CUDA device each, torch finds {found}; start fewer, "
                         "let every process see all devices of its machine (srun: --gpus-per-node, not --gpus-per-task), or set compute.device: cpu")
    return f"cuda:{here.local_rank}"


@contextmanager
def joined(here: Place, *, device: str, precision: str) -> Iterator[Ranks]:
    """The group this process belongs to, all of which wait for each other here.

    Parameters
    ----------
    device : of this process, see :func:`device_of`.
    """
    ranks = Ranks(here, device=device, precision=precision)
    if ranks.size == 1:
        yield ranks
        return
    follow()
    assert ranks.fabric is not None
    yield ranks
    import torch

    torch.distributed.destroy_process_group()


def follow() -> None:
    """End this process, by SIGTERM, as soon as whoever launched it has ended, even by SIGKILL."""
    parent = os.getppid()
    host, _, number = os.environ.get(SHELL, "").partition(" ")

    def gone() -> bool:
        if os.getppid() != parent:
            return True
        if host != os.uname().nodename:
            return False
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        return False

    def watch() -> None:
        while not gone():
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)  # one that waits for others does not hear it
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def secondary(error: BaseException) -> bool:
    """Whether an error only says that another process of the group has ended."""
    text = str(error).lower()
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"DistBackendError", "DistNetworkError", "DistStoreError"}) or (isinstance(error, RuntimeError) and any(
        word in text for word in ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "broken pipe", "tcpstore")))
