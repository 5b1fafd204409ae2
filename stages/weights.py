"""weights: the starting weights of both networks, checked, one file each."""

from pathlib import Path
from typing import Any

from aepsl.networks.weights import save_weights, starting_weights
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ("classify.network", "segment.network")


def main(p: Any, compute: Compute, state: State, *, classify: str, segment: str) -> int:
    checked = [starting_weights(network.trunk, network.weights, width=network.width, stages=network.stages,
                                cache=Path("scratch/downloads"))
               for network in (p.classify.network, p.segment.network)]
    for weights, out in zip(checked, (classify, segment), strict=True):  # only now: a fault in one leaves neither behind
        save_weights(Path(out), weights)
    return 2


if __name__ == "__main__":
    run(main, params=PARAMS, outputs=("classify", "segment"), unit="networks")
