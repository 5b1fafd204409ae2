"""``aepsl export`` and ``aepsl validate``: archives for the PASCAL VOC test server."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aepsl.cli.photographs import CARD
from aepsl.cli.shell import counted, example, name_of, show, writable_target
from aepsl.errors import AepslError, FaultList

if TYPE_CHECKING:
    import numpy as np

    from aepsl.evaluation.mask_png import Size

INDEX = Path("data/index.csv")
Ids = Annotated[Path | None, typer.Option("--ids", metavar="LIST", help="List of the test ids, one a line, or another index.csv; by default the "
                                          "test split of --index.")]
Index = Annotated[Path, typer.Option("--index", metavar="CSV", help="The data set's index: classes, and sizes of the images.")]

EXPORT_HELP = """Pack masks for the PASCAL VOC test server, and check the archive.

PREDICTIONS is a folder of palette or grey PNGs named after their images, such as `aepsl predict` writes, or a zip of them, such as
data/predictions.zip. The masks get the place and the numbers that the server expects where the classes are VOC's 20; else they lie in
results/. Which classes the masks have, aepsl.json beside them says; without it they have those of the index, and VOC's where the index does not
know the ids. An archive with a fault is not kept. The stage `export` does the same with data/predictions.zip."""
VALIDATE_HELP = """Check an archive for the test server, from here or elsewhere, offline.

Every fault is told, by file: masks that are missing, too many, of another size, mode, palette or value; names that lead out of the archive."""


def export(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder or zip of masks.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The archive, .tar.gz.", show_default=False)],
    ids: Ids = None,
    index: Index = INDEX,
) -> None:
    from aepsl.evaluation.submission import VOC_FOLDER, expected_images, export_checked, layout_of_model

    writable_target(out)
    sizes, layout = expected_images(ids, index)
    names, mask_of, classes = masks_in(predictions)
    if classes is not None:
        try:
            layout = layout_of_model(classes, layout)
        except AepslError as error:
            raise AepslError(f"{name_of(predictions / CARD)}: {error}") from None
    if missing := sorted(identifier for identifier in sizes if f"{identifier}.png" not in names):
        raise FaultList(f"{predictions}: expected a mask <id>.png for each of {counted(len(sizes), 'image')}, found none for {len(missing)}; predict "
                        "them, or name other ids with --ids", [f"{identifier}.png: no such mask" for identifier in missing])
    export_checked(out, sizes, mask_of, layout=layout, advice="predict them again, or name another --index")
    unused = len(names) - len(sizes)
    rest = f" ({counted(unused, 'other mask')} left out)" if unused > 0 else ""
    voc = layout.folder == VOC_FOLDER
    show(f"{out}: {counted(len(sizes), 'mask')} in {layout.folder}/{rest}, "
         f"{'sound for the VOC test server' if voc else 'sound; the classes are not the 20 of VOC, so it is not for the VOC test server'}"
         f"{_unmeasured(sizes)}")


def masks_in(predictions: Path) -> tuple[set[str], "Callable[[str], np.ndarray]", list[str] | None]:
    """Names of the masks in a folder or zip, what reads one by its id, and the classes of their numbers where `aepsl predict` has said them."""
    from aepsl.data.archive import MOST_BYTES, ArchiveReader, decode_indices

    if predictions.is_dir():
        names = {path.relative_to(predictions).as_posix() for path in predictions.rglob("*.png") if path.is_file()}

        def read(identifier: str) -> "np.ndarray":
            path = predictions / f"{identifier}.png"
            if path.stat().st_size > MOST_BYTES:
                raise AepslError(f"{path}: expected at most {MOST_BYTES} bytes, found {path.stat().st_size}")
            return decode_indices(path.read_bytes(), str(path))

        card = predictions / CARD
        return names, read, _classes(card.read_bytes(), predictions) if card.is_file() else None
    archive = ArchiveReader(predictions)
    return ({name for name in archive if name.endswith(".png")}, lambda identifier: archive.mask(f"{identifier}.png"),
            _classes(archive.read(CARD), predictions) if CARD in archive else None)


def _classes(card: bytes, predictions: Path) -> list[str]:
    """Names of the numbers 1, 2, …, as `aepsl predict` writes them beside its masks."""
    from aepsl.data.archive import parse_json

    try:
        values = parse_json(card)["values"]
        return [str(values[str(number)]) for number in range(1, len(values))]
    except (ValueError, LookupError, TypeError):
        raise AepslError(f"{name_of(predictions / CARD)}: expected what `aepsl predict` writes there, the names of all values, found something else; "
                         "predict again with --overwrite") from None


def _unmeasured(sizes: "Mapping[str, Size | None]") -> str:
    unknown = sum(size is None for size in sizes.values())
    return f" (not checked: the size of {unknown}, which the index does not have)" if unknown else ""


def validate(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive, .tar.gz.", show_default=False)],
    ids: Ids = None,
    index: Index = INDEX,
) -> None:
    from aepsl.evaluation.submission import expected_images
    from aepsl.evaluation.submission_check import submission_faults

    sizes, layout = expected_images(ids, index)
    if faults := submission_faults(archive, sizes, folder=layout.folder, highest=layout.highest):
        raise FaultList(f"{name_of(archive)}: {len(faults)} fault(s); the server would refuse or misread it", faults, shown=len(faults))
    show(f"{archive}: sound. {counted(len(sizes), 'mask')} in {layout.folder}/, values 0 to {layout.highest}{_unmeasured(sizes)}")


EXPORT_EPILOG = example("aepsl export data/predictions.zip --out my.tar.gz", "aepsl export masks --out my.tar.gz --ids lists/test.txt",
                        statuses="0 written and sound; 1 not written; 2 wrong usage.")
VALIDATE_EPILOG = example("aepsl validate my.tar.gz", "aepsl validate my.tar.gz --ids lists/test.txt",
                          statuses="0 sound; 1 faults, or it cannot be read; 2 wrong usage.")
