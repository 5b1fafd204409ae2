"""saliency: a saliency map per training image, computed or the user's own."""

from functools import partial
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, encode_grey
from aepsl.data.index import Index, read_index
from aepsl.data.samples import Photographs
from aepsl.errors import FaultList
from aepsl.mining.saliency import UserMaps, load_map, missing_maps, saliency, user_maps, working_scale
from aepsl.parallel import in_processes
from aepsl.params import Compute
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from stages import run

PARAMS = ("saliency",)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, out: str) -> int:
    train = read_index(index).split("train")
    if p.saliency.method == "rbd":
        settings = p.saliency.model_dump(exclude={"method", "maps"})
        work = partial(computed, Photographs(ArchiveReader(images), train), settings)
    else:
        missing = missing_maps(p.saliency.maps, train.ids)
        if missing:
            raise FaultList(f"{p.saliency.maps}: expected a saliency map for every training image; add these or set saliency.method to rbd",
                            [f"{identifier}: no map" for identifier in missing])
        work = partial(own, user_maps(p.saliency.maps), train)
        state = State(None, 0)  # the user's files may have changed since an interruption, and reading them does not take long
    write_resumed(out, lambda some: in_processes(work, some, processes=compute.processes), total=len(train), state=state, label="saliency")
    return len(train)


def computed(photographs: Photographs, settings: dict[str, Any], row: int) -> Entries:
    image, full = photographs.reduced(row, working_scale(tuple(photographs.index.sizes[row].tolist()), settings["size"]))
    return encoded(photographs.index.ids[row], saliency(image, full=full, **settings))


def own(maps: UserMaps, train: Index, row: int) -> Entries:
    identifier = train.ids[row]
    return encoded(identifier, load_map(maps[identifier](), size=tuple(train.sizes[row].tolist()), name=f"saliency map of {identifier}"))


def encoded(identifier: str, values: np.ndarray) -> Entries:
    return {f"{identifier}.png": encode_grey(np.round(values * 255).astype(np.uint8))}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index"), outputs=("out",))
