"""Archives for the PASCAL VOC test server: written, and checked before anyone waits a day for the server's answer.

The server takes a .tar.gz that holds ``results/VOC2012/Segmentation/comp6_test_cls/<id>.png`` for every image of the test list: palette
PNGs of 8 bits in VOC's colours with the values 0 to 20, each of its image's size. The check works on archives from anywhere:
see :mod:`aepsl.evaluation.submission_check` for what is checked, and ``aepsl validate`` for the command.
"""

import gzip
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aepsl.data import voc
from aepsl.data.archive import encode_mask, named, publish, write_atomically
from aepsl.data.index import FIXED, read_index
from aepsl.errors import AepslError, FaultList, shown
from aepsl.evaluation.mask_png import Size
from aepsl.evaluation.submission_check import submission_faults

VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
DATE = 315_532_800  # 1980-01-01, as in the project's zips; some versions of tar warn of 0
BY_LIST = "or name the list of test ids with --ids"


@dataclass(frozen=True)
class Layout:
    """Where the masks of an archive lie, and the value that background and each class of the index have in them."""

    folder: str
    values: tuple[int, ...]

    @property
    def highest(self) -> int:
        """The largest value of a mask."""
        return max(self.values)


VOC_LAYOUT = Layout(VOC_FOLDER, tuple(range(len(voc.CLASSES) + 1)))


def layout_of(classes: Sequence[str]) -> Layout:
    """The server's folder and numbers where the classes are VOC's 20, in whatever order; else ``results/`` and the order given."""
    if set(classes) == set(voc.CLASSES):
        return Layout(VOC_FOLDER, (0, *(voc.MASK_VALUES[name] for name in classes)))
    return Layout("results", tuple(range(len(classes) + 1)))


def layout_of_model(classes: Sequence[str], layout: Layout) -> Layout:
    """The layout for masks in the numbers of a model, where ``layout`` is what the images are to be submitted in.

    Raises
    ------
    AepslError : they are for VOC's server, and the model has classes that it does not know.
    """
    if layout.folder != VOC_FOLDER:
        return Layout(layout.folder, tuple(range(len(classes) + 1)))
    if foreign := [name for name in classes if name not in voc.MASK_VALUES]:
        raise AepslError(f"expected classes of VOC, found {len(foreign)} other(s), such as {shown(foreign[0])}: the server would take them for "
                         "VOC's; predict with a model of VOC's classes, or name the index of this data with --ids")
    return Layout(VOC_FOLDER, (0, *(voc.MASK_VALUES[name] for name in classes)))


def write_submission(path: Path, ids: Iterable[str], mask_of: Callable[[str], np.ndarray], *, layout: Layout) -> None:
    """Write the archive: complete or not at all, its bytes given by the masks alone.

    Parameters
    ----------
    mask_of : gives the mask of an id, (H, W) uint8 in the numbering of the index, in its image's size.
    """
    write_atomically(path, _packed(ids, mask_of, layout))


def _packed(ids: Iterable[str], mask_of: Callable[[str], np.ndarray], layout: Layout) -> bytes:
    numbers = np.arange(256, dtype=np.uint8)  # values that are no class stay what they are, for the check to find
    numbers[:len(layout.values)] = layout.values
    buffer = io.BytesIO()
    with gzip.GzipFile("", "wb", fileobj=buffer, mtime=0) as compressed, \
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for identifier in sorted(ids):
            data = encode_mask(numbers[mask_of(identifier)])
            member = tarfile.TarInfo(f"{layout.folder}/{identifier}.png")  # a fresh one belongs to nobody, mode 644
            member.size, member.mtime = len(data), DATE
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def export_checked(path: Path, sizes: Mapping[str, Size | None], mask_of: Callable[[str], np.ndarray], *, layout: Layout, advice: str) -> None:
    """:func:`write_submission`, but only if it is sound: until then it has another name.

    Parameters
    ----------
    sizes : the ids, with width and height of their images, None = unknown.
    advice : what to do about masks that are not.

    Raises
    ------
    FaultList : every fault; what was there under the name before is kept.
    """
    content = _packed(sizes, mask_of, layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with named(path, temporary):
        try:
            temporary.write_bytes(content)
            if faults := submission_faults(temporary, sizes, folder=layout.folder, highest=layout.highest):
                raise FaultList(f"{path}: {len(faults)} fault(s) in what was predicted, so it is not kept; {advice}",
                                [fault.replace(str(temporary), str(path)) for fault in faults])
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def expected_images(ids: Path | None, index: Path | None) -> tuple[dict[str, Size | None], Layout]:
    """The ids to expect with their images' sizes, and the layout.

    Parameters
    ----------
    ids : a list, one id a line, or an index, of which the test split counts; None = the test split of ``index``.
    index : sizes and classes for a list. One that knows none of the list's ids is of other data: then the layout is VOC's, and sizes are unknown.
    """
    source = ids or index
    if source is None:
        raise AepslError("expected a list of ids or an index, found neither; name one with --ids")
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise AepslError(f"{source}: no such file" + ("" if ids else f"; `dvc repro prepare` makes the index, {BY_LIST}")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise AepslError(f"{source}: expected a text file in UTF-8 with one id a line, found {error}") from None
    if ids is None or text.startswith(",".join(FIXED)):
        test = read_index(source).split("test")
        if not len(test):
            raise AepslError(f"{source}: expected images of the split test, found none; {BY_LIST}")
        return dict(zip(test.ids, map(_size, test.sizes), strict=True)), layout_of(test.classes)
    listed = voc.parse_list(text)
    faults = [f"id {identifier!r} is listed {count} times" for identifier, count in Counter(listed).items() if count > 1]
    faults += [fault for identifier in dict.fromkeys(listed) if (fault := voc.id_fault(identifier))]
    if faults or not listed:
        raise FaultList(f"{source}: expected a list with one id a line", faults or ["found no id"])
    rows = read_index(index) if index is not None and index.is_file() else None
    known = {} if rows is None else dict(zip(rows.ids, map(_size, rows.sizes), strict=True))
    layout = VOC_LAYOUT if rows is None or known.keys().isdisjoint(listed) else layout_of(rows.classes)
    return {identifier: known.get(identifier) for identifier in listed}, layout


def _size(row: np.ndarray) -> Size:
    width, height = row.tolist()
    return width, height
