"""From artefacts to the report: pictures, scores and tables of a data set with every kind of image."""

import base64
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey, encode_mask
from aepsl.data.index import Index
from aepsl.errors import AepslError
from aepsl.parallel import in_processes
from aepsl.report.gather import Sources, image_entries, loss_curves, overview_of, read_metrics, read_rows, write_data, write_index_script
from aepsl.report.shards import values_of
from aepsl.segmentation.scores import encoded_grid, encoded_scores

CLASSES = ("cat", "dog")
SIZES = {"a/b": (40, 30), "</script>\u2028": (1, 9), "wide": (700, 2), "z": (17, 16), "t": (20, 20)}
SPLITS = {"a/b": "train", "</script>\u2028": "train", "wide": "train", "z": "val", "t": "test"}


def archive(path: Path, entries: dict[str, bytes]) -> ArchiveReader:
    with ArchiveWriter(path) as out:
        out.update(entries)
    return ArchiveReader(path)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def data_set(folder: Path, *, with_truth: Sequence[str] = ("a/b", "wide", "z"), labels: bool = False, **changed: dict[str, bytes]) -> Sources:
    """Artefacts of five images; what the names of ``changed`` hold is put in the place of theirs."""
    rng = np.random.default_rng(0)
    index = Index(CLASSES, tuple(SIZES), tuple(SPLITS.values()), np.array(list(SIZES.values())),
                  np.array([[True, True], [True, False], [False, True], [True, False], [False, False]]))
    mask = {name: rng.integers(0, 3, (height, width)).astype(np.uint8) for name, (width, height) in SIZES.items()}
    grid = {name: (-(-height // 8), -(-width // 8)) for name, (width, height) in SIZES.items()}
    train = [name for name, split in SPLITS.items() if split == "train"]
    others = [name for name in SIZES if name not in train]
    owned = [(name, label) for name, row in zip(index.ids, index.labels, strict=True) for label in np.flatnonzero(row) + 1 if name in train]
    entries = {
        "images": {f"{name}.png": png(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)) for name, (width, height) in SIZES.items()},
        "truth": {f"{name}.png": encode_mask(mask[name]) for name in with_truth},
        "mined": {f"{name}/{label}.png": encode_grey(mask[name]) for name, label in owned},
        "heatmaps": {f"{name}/{label}/1.png": encode_grey(np.full(grid[name], 100, np.uint8)) for name, label in owned},
        "saliency": {f"{name}.png": encode_grey(mask[name]) for name in train},
        "merged": {f"{name}.png": encode_mask(np.where(mask[name] == 2, 255, mask[name]).astype(np.uint8)) for name in train},
        "predictions": {f"{name}.png": encode_mask(np.zeros_like(mask[name])) for name in others},
        "scores": encoded_grid(8) | {key: data for name in others for key, data in encoded_scores(name, rng.random((3, *grid[name]))).items()}}
    entries |= changed
    archives = {name: archive(folder / f"{name}.zip", content) for name, content in entries.items()}
    return Sources.of(index, **archives, rounds=["r1", "r2"], labels=("s2", archives["merged"]) if labels else None, void_as="miss", sides=(32, 64))


def written(folder: Path, sources: Sources, *, processes: int = 1) -> tuple[dict[str, bytes], Any, Any]:
    """All files of report/data, the gallery and the confusion."""
    shutil.rmtree(folder, ignore_errors=True)
    found = in_processes(Images(sources), range(len(sources.index)), processes=processes)
    gallery, confusion, digest = write_data(folder, found, sources)
    write_index_script(folder, gallery, overview_for(sources, folder, confusion), digest)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}, gallery, confusion


class Images:
    def __init__(self, sources: Sources) -> None:
        self.sources = sources

    def __call__(self, row: int) -> dict[str, bytes]:
        return image_entries(row, self.sources)


def overview_for(sources: Sources, folder: Path, confusion: np.ndarray | None) -> Any:
    for name, text in (("rounds.csv", "round,miou\nr1,0.5\n007,\n"), ("classes.csv", "class,iou\nbackground,0.5\n"),
                       ("r1.csv", "epoch,loss\n1,0.25\n")):
        (folder.parent / name).write_text(text)
    (folder.parent / "val.json").write_text('{"miou": 0.5, "note": null, "how": [{"split": "val"}]}')
    return overview_of(names=sources.names, metrics={"val": str(folder.parent / "val.json")}, rounds=str(folder.parent / "rounds.csv"),
                       per_class=str(folder.parent / "classes.csv"), confusion=confusion,
                       curves=loss_curves({"classify": (str(folder.parent), ["r1", "r9"])}), params={"seed": 1})


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_every_image_has_its_pictures_in_the_shards_of_both_sizes(tmp_path: Path) -> None:
    files, gallery, confusion = written(tmp_path / "data", sources := data_set(tmp_path))
    assert list(files) == ["full/00000.js", "full/00001.js", "index.js", "thumbs/00000.js"]
    [_, [index]] = values_of(files["index.js"])
    assert index["images"]["id"] == list(SIZES) == list(gallery.ids)
    assert index["images"]["labels"] == [[1, 2], [1], [2], [1], []]
    shards = [values_of(files[name])[1] for name in ("thumbs/00000.js", "full/00000.js", "full/00001.js")]
    assert [shard[:2] for shard in shards] == [["thumbs", 0], ["full", 0], ["full", 1]]
    for images, side in ((shards[0][2], 32), ([*shards[1][2], *shards[2][2]], 64)):
        assert len(images) == 5
        for (photo, layers), split, size in zip(images, index["images"]["split"], SIZES.values(), strict=True):
            assert max(image_of(photo).size) == min(side, max(size))
            assert len(layers) == len(index["layers"][split])
            for data, layer in zip(layers, index["layers"][split], strict=True):
                if isinstance(data, str) and layer["kind"] != "heat":
                    assert image_of(data).size == image_of(photo).size
    first = dict(zip([layer["key"] for layer in index["layers"]["train"]], shards[1][2][0][1], strict=True))
    assert set(first["heat-r1"]) == {"1", "2"}
    assert first["heat-r2"] is None  # a round that did not ask this image
    assert confusion is not None
    assert confusion.sum() == 17 * 16
    assert sources.layers["test"] == [layer for layer in sources.layers["val"] if layer.key in ("before", "after")]


def test_scores_are_none_where_there_is_no_truth_and_those_of_the_masks_elsewhere(tmp_path: Path) -> None:
    _, gallery, confusion = written(tmp_path / "data", data_set(tmp_path))
    assert [value is None for value in gallery.scores["iou"]] == [False, True, False, False, True]
    # Merged labels have class 2 ignored, so it is missed whole, and nothing else is wrong.
    truth = ArchiveReader(tmp_path / "truth.zip").mask("a/b.png")
    assert gallery.scores["missed"][0] == pytest.approx((truth == 2).sum() / (truth > 0).sum())
    assert gallery.scores["spilled"][0] == gallery.scores["confused"][0] == 0
    assert gallery.scores["missed"][3] == 1  # predicted as background throughout
    assert confusion[1:, 0].sum() == (ArchiveReader(tmp_path / "truth.zip").mask("z.png") > 0).sum()


def test_data_without_truth_has_a_report_without_errors(tmp_path: Path) -> None:
    files, gallery, confusion = written(tmp_path / "data", data_set(tmp_path, with_truth=()))
    assert confusion is None
    assert all(value is None for values in gallery.scores.values() for value in values)
    assert not [layer.key for layers in gallery.layers.values() for layer in layers if layer.key in ("truth", "errors")]
    assert len(files) == 4


def test_the_labels_of_a_further_pass_are_a_layer_of_their_own(tmp_path: Path) -> None:
    sources = data_set(tmp_path, labels=True)
    assert [layer.title for layer in sources.layers["train"] if layer.key == "labels"] == ["labels of pass s2"]
    entries = image_entries(0, sources)
    assert entries["full"].count(b"null") == 1


def test_the_bytes_do_not_depend_on_the_number_of_processes_and_tell_of_every_change(tmp_path: Path) -> None:
    sources = data_set(tmp_path)
    alone = written(tmp_path / "data", sources)[0]
    assert written(tmp_path / "data", sources, processes=2)[0] == alone
    changed = written(tmp_path / "data", data_set(tmp_path, with_truth=("z",)))[0]
    assert values_of(changed["index.js"])[1][0]["digest"] != values_of(alone["index.js"])[1][0]["digest"]
    assert b"</script" not in b"".join(alone.values())


def test_pictures_of_other_data_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    other = {f"{name}.png": encode_mask(np.full((9, 9), 1, np.uint8)) for name in ("z", "t")}
    with pytest.raises(AepslError, match=r"z\.png: after: expected 17×16 pixels, as the index says, found 9×9"):
        image_entries(3, data_set(tmp_path / "x", predictions=other))
    (tmp_path / "y").mkdir()
    foreign = {f"{name}.png": encode_mask(np.full((16, 17), 7, np.uint8)) for name in ("z", "t")}
    with pytest.raises(AepslError, match=r"predictions\.zip: entry 'z\.png': expected values 0 to 2 and 255, found 7"):
        image_entries(3, data_set(tmp_path / "y", predictions=foreign))
    (tmp_path / "z").mkdir()
    grid = {f"a/b/{label}/1.png": encode_grey(np.zeros((3, 3), np.uint8)) for label in (1, 2)}
    with pytest.raises(AepslError, match=r"a/b\.png: heatmap of class 1, round r1: expected a grid of 40×30 pixels, found 3×3 cells"):
        image_entries(0, data_set(tmp_path / "z", heatmaps=grid))


def test_the_overview_reads_numbers_texts_and_empty_cells(tmp_path: Path) -> None:
    overview = overview_for(data_set(tmp_path), tmp_path / "data", np.ones((3, 4), int))
    assert overview.metrics == {"val": {"miou": 0.5, "note": None}}
    assert overview.rounds == [{"round": "r1", "miou": 0.5}, {"round": "007", "miou": None}]
    assert overview.curves == {"classify@r1": [{"epoch": 1.0, "loss": 0.25}]}
    assert overview.confusion == [[1, 1, 1]] * 3  # without the pixels that nothing was said of
    assert overview.classes == ("background", *CLASSES)


@pytest.mark.parametrize("text", ["a,b\n1\n", "a,b\n1,2,3\n", 'a\n"'])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rounds.csv").write_text(text)
    with pytest.raises(AepslError, match=r"rounds\.csv: expected .*run `dvc repro`"):
        read_rows(str(tmp_path / "rounds.csv"))


@pytest.mark.parametrize("text", ["[]", "{", '{"a": NaN}'])
def test_damaged_metrics_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "val.json").write_text(text)
    with pytest.raises(AepslError, match=r"val\.json: expected the metrics .*run `dvc repro`"):
        read_metrics(str(tmp_path / "val.json"))
