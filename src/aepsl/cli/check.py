"""``aepsl check``: the data doctor alone."""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aepsl.cli.shell import counted, example, json_text, say, show, table
from aepsl.errors import AepslError, FaultList, shown

if TYPE_CHECKING:
    from aepsl.data.doctor import Diagnosis
    from aepsl.params import Data

HELP = """Look for faults in a folder of images before anything is run.

FOLDER holds JPEGImages/, labels (Annotations/*.xml, or a CSV with the columns id,labels) and lists of ids in ImageSets/Segmentation/; masks in
SegmentationClass/ are for scoring only. Every list, label, image and mask is read as `dvc repro` would read it, and all faults are told at once.
So is what is allowed but suspicious: classes with few images, images that are in train and val, masks that contradict labels.

What options do not say is taken from params.yaml where its data.path is FOLDER (then FOLDER may be left out), and else found by looking.
Nothing is written."""
PARAMS = Path("params.yaml")
QUICK = 200  # images, up to which presets/photos-quick.yaml is meant: see docs/howto/own-images.md


def check(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="The folder that holds JPEGImages/.", show_default=False)] = None,
    labels: Annotated[str | None, typer.Option("--labels", metavar="FILE|xml|masks", help="A table, or where else labels come from.",
                                               show_default=False)] = None,
    masks: Annotated[str | None, typer.Option("--masks", metavar="DIR", help="Folder of masks.", show_default=False)] = None,
    no_masks: Annotated[bool, typer.Option("--no-masks", help="There are none, or they are not to be looked at.")] = False,
    mask_values: Annotated[str | None, typer.Option("--mask-values", metavar="cat=8,dog=12|voc2012", show_default=False,
                                                    help="What pixels of masks mean; by default the place in the list of classes.")] = None,
    classes: Annotated[str | None, typer.Option("--classes", metavar="cat,dog", help="The classes, in order; by default all that labels name.",
                                                show_default=False)] = None,
    unlisted: Annotated[Literal["error", "leave-out"] | None, typer.Option("--unlisted", help="What labels outside --classes are.",
                                                                           show_default=False)] = None,
    train: Annotated[str | None, typer.Option("--train", metavar="LIST", help="Name or path of the list of ids.", show_default=False)] = None,
    val: Annotated[str | None, typer.Option("--val", metavar="LIST", help="The same.", show_default=False)] = None,
    test: Annotated[str | None, typer.Option("--test", metavar="LIST", help="The same.", show_default=False)] = None,
    every: Annotated[bool, typer.Option("--all", help="Tell all faults, not the first 50.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    from aepsl.data.doctor import diagnose

    if masks is not None and no_masks:
        raise typer.BadParameter("--masks and --no-masks: expected one of them, found both")
    place, chosen, source = settings_of(folder)
    given = {"labels": labels, "masks": masks, "train": train, "val": val, "test": test, "unlisted": unlisted,
             "classes": [name.strip() for name in classes.split(",")] if classes else None, "mask_values": _values(mask_values)}
    chosen |= {name: value for name, value in given.items() if value is not None} | ({"masks": None} if no_masks else {})

    def look() -> "Diagnosis":
        return diagnose(place, splits={split: chosen[split] for split in ("train", "val", "test")}, labels=chosen["labels"], masks=chosen["masks"],
                        mask_values=chosen["mask_values"], classes=chosen["classes"], unlisted=chosen["unlisted"])

    found = look()
    if source != str(PARAMS) and chosen["mask_values"] is None and _numbered_like_voc(found):
        chosen["mask_values"] = "voc2012"
        found = look()
    if as_json:
        print(json_text({"folder": str(place), "settings": chosen, "images": {split: images for split, (images, _) in found.splits.items()},
                         "masks": {split: number for split, (_, number) in found.splits.items()}, "classes": found.classes,
                         "left_out": found.left_out, "faults": found.faults, "notes": found.notes}))
    else:
        _print(place, chosen, source, found)
    if found.faults:
        if as_json:
            raise typer.Exit(1)
        raise FaultList(f"{place}: {counted(len(found.faults), 'fault')}; mend the files, or take their ids off the lists", found.faults,
                        shown=len(found.faults) if every else 50)


def settings_of(folder: Path | None) -> tuple[Path, dict[str, Any], str]:
    """The folder, the settings that hold for it unless options say otherwise, and where they come from."""
    try:
        data = _project()
    except AepslError as error:  # of a project that may have nothing to do with the folder
        if folder is None:
            raise
        say(f"mind: the folder is looked at without {PARAMS}, which cannot be read ({str(error).splitlines()[0]})")
        data = None
    if folder is None:
        if data is None or data.source != "folder":
            raise typer.BadParameter("FOLDER: expected the folder to check, because " +
                                     (f"data.source in {PARAMS} is {data.source}" if data else f"there is no {PARAMS} here") + "; found none")
        folder = Path(data.path)
    if data is not None and data.source == "folder" and os.path.realpath(Path(data.path).expanduser()) == os.path.realpath(folder.expanduser()):
        return folder, {**data.folder.model_dump(), "classes": data.classes, "unlisted": data.unlisted}, str(PARAMS)
    return folder, _looked_up(folder.expanduser()), "found by looking"


def _project() -> "Data | None":
    """The data group of params.yaml in this folder."""
    if not PARAMS.is_file():
        return None
    from aepsl.params import load_params

    return load_params(PARAMS).data


def _looked_up(folder: Path) -> dict[str, Any]:
    """What a folder has, by the usual names."""
    lists = folder / "ImageSets/Segmentation"
    tables = [name for name in ("labels.csv",) if (folder / name).is_file()]
    labels = "xml" if (folder / "Annotations").is_dir() else tables[0] if tables else "labels.csv"
    return {"train": "train", "val": "val" if (lists / "val.txt").is_file() else None, "test": None, "labels": labels,
            "masks": "SegmentationClass" if (folder / "SegmentationClass").is_dir() else None, "mask_values": None, "classes": None,
            "unlisted": "leave-out"}


def _values(text: str | None) -> dict[str, int] | str | None:
    if text is None or text == "voc2012":
        return text
    values: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.rpartition("=")
        if not name.strip() or not value.strip().isdecimal() or not 1 <= int(value) <= 254:
            raise typer.BadParameter(f"--mask-values: expected voc2012 or NAME=NUMBER,… with numbers from 1 to 254, found {shown(part)}")
        values[name.strip()] = int(value)
    return values


def _print(place: Path, chosen: dict[str, Any], source: str, found: "Diagnosis") -> None:
    lists = ", ".join(f"{split} {shown(chosen[split])}" if chosen[split] != split else split for split in ("train", "val", "test") if chosen[split])
    values = "" if chosen["mask_values"] is None else f" with the values of {chosen['mask_values']}"
    values = " with values of their own" if isinstance(chosen["mask_values"], dict) else values
    show(f"{place}: labels {chosen['labels']}, masks {chosen['masks'] or 'none'}{values}, lists {lists} ({source})\n")
    rows = [[split, f"{images:,}", f"{masks:,}"] for split, (images, masks) in found.splits.items()]
    print(table([["split", "images", "masks"], *rows], right=(1, 2)))
    labelled = [split for split in found.splits if split != "test"]
    if found.classes:
        rows = [[name, *(f"{numbers[split]:,}" for split in labelled)] for name, numbers in found.classes.items()]
        print("\n" + table([["class", *labelled], *rows], right=range(1, 1 + len(labelled))))
    if found.notes:
        show("\nallowed, but look at it:")
        for note in found.notes:
            show(f"  - {note}")
    if not found.faults:
        total = sum(images for images, _ in found.splits.values())
        show(f"\nsound: {counted(total, 'image')}, {counted(len(found.classes), 'class', 'classes')}{_next(place, chosen, source, total)}")


def _next(place: Path, chosen: dict[str, Any], source: str, images: int) -> str:
    """What params.yaml must say for `dvc repro` to read the folder so."""
    if source == str(PARAMS):
        return ". Next: dvc repro"
    preset, labels, masks = ("photos-quick", "labels.csv", None) if images <= QUICK else ("folder", "xml", "SegmentationClass")
    usual = {"train": "train", "val": "val", "test": None, "labels": labels, "masks": masks, "mask_values": None}
    values: dict[str, Any] = {"data.source": "folder", "data.path": str(place)}
    values |= {f"data.folder.{name}": chosen[name] for name in usual if chosen[name] != usual[name]}
    values |= {"data.classes": chosen["classes"]} if chosen["classes"] else {}
    values |= {"data.unlisted": chosen["unlisted"]} if chosen["unlisted"] != "leave-out" else {}
    lines = "\n".join(f"  {path}: {_yaml(value)}" for path, value in values.items())
    return f". Next: cp presets/{preset}.yaml params.yaml, set there\n{lines}\nand run dvc repro"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./-]*", value) else json.dumps(value, ensure_ascii=False)


def _numbered_like_voc(found: "Diagnosis") -> bool:
    """Whether masks have values that are no class, and the classes are among VOC's."""
    from aepsl.data.voc import CLASSES

    return any("see data.folder.mask_values" in fault for fault in found.faults) and set(found.classes) <= set(CLASSES)


EPILOG = example("aepsl check my-images --labels labels.csv --no-masks", "aepsl check VOC2012 --classes cat,dog --mask-values voc2012",
                 "aepsl check                               data.path of params.yaml",
                 statuses="0 sound; 1 faults; 2 wrong usage.")
