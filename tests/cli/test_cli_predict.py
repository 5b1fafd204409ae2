"""``aepsl predict``, ``info`` and ``onnx``."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

from aepsl import segmenter as trained
from aepsl.cli.photographs import find, mask_names, recorded
from aepsl.data.archive import ArchiveReader, decode_indices
from aepsl.data.index import read_index
from aepsl.networks.files import save_model
from aepsl.networks.packages import Crf, write_package
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.params import CrfSettings, Network
from aepsl.resume.interrupt import Interrupted
from tests.conftest import ROOT, Checkout

Command = Callable[..., Result]
CLASSES = ("cat", "dog")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a segmenter that has learnt nothing, but finds something everywhere."""
    return packed(tmp_path_factory.mktemp("model"), CLASSES)


def packed(folder: Path, classes: tuple[str, ...], seed: int = 1) -> Path:
    torch.manual_seed(seed)
    network = Network(trunk="mobilenet_v2", output_stride=8, width=0.1, stages=3, weights="none", frozen_stages=0)
    segmenter = Segmenter(build_trunk("mobilenet_v2", output_stride=8, width=0.1, stages=3), len(classes), with_classification=False)
    save_model(folder / "s1.pt", segmenter, network=network, classes=classes,
               facts={"pass": "s1", "psl": "none", "output": "softmax", "final_loss": 1.0})
    settings = CrfSettings(iterations=1, bilateral_weight=4, bilateral_xy=30, bilateral_rgb=5, spatial_weight=3, spatial_xy=1)
    write_package(folder / "aepsl.pt", folder / "s1.pt", scales=[1.0], flip=False, prohibit_below=0.1,
                  crf=Crf(preset="custom", backend="torch", settings=settings), largest_side=96, metrics=None)
    return folder / "aepsl.pt"


def photograph(path: str | Path, seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def files(folder: str = "out") -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def summary() -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(Path("out/summary.csv").read_text())))


# ---- which photographs, which names


def names(words: list[str], listed: list[str] | None = None, out: str = "out") -> tuple[list[tuple[str, str]], list[str]]:
    """(path, mask) of what is found, and the faults."""
    faults: list[str] = []
    found = find(words, out=Path(out), listed=lambda: listed or [], fault=faults.append)
    return [(str(photograph.path), photograph.mask) for photograph in found], faults


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a/x.jpg", "photos/b/x.JPG", "photos/y.png", "photos/.hidden.jpg", "photos/notes.txt", "z.jpg"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.usefixtures("album")
def test_names_follow_the_photographs_from_the_folder_they_share() -> None:
    assert names(["photos"])[0] == [("photos/y.png", "y.png"), ("photos/a/x.jpg", "a/x.png"), ("photos/b/x.JPG", "b/x.png")]
    assert names(["photos/a/x.jpg", "photos/b/x.JPG"])[0] == [("photos/a/x.jpg", "a/x.png"), ("photos/b/x.JPG", "b/x.png")]
    assert names(["photos/a", "z.jpg"])[0] == [("photos/a/x.jpg", "photos/a/x.png"), ("z.jpg", "z.png")]
    assert names([os.path.abspath("photos/a/x.jpg")])[0] == [(os.path.abspath("photos/a/x.jpg"), "x.png")]


@pytest.mark.usefixtures("album")
def test_globs_lists_and_repetitions() -> None:
    assert [path for path, _ in names(["photos/**/*.jpg"])[0]] == ["photos/a/x.jpg"]
    assert [path for path, _ in names(["photos/*"])[0]] == ["photos/a/x.jpg", "photos/b/x.JPG", "photos/y.png"]
    assert [mask for _, mask in names(["photos/*/*"])[0]] == ["a/x.png", "b/x.png"]
    assert [path for path, _ in names(["-"], ["z.jpg", "photos/b"])[0]] == ["z.jpg", "photos/b/x.JPG"]
    assert [path for path, _ in names(["z.jpg", "./z.jpg", "*.jpg"])[0]] == ["z.jpg"]


@pytest.mark.usefixtures("album")
def test_what_gives_nothing_is_told_and_the_rest_goes_on() -> None:
    Path("empty").mkdir()
    found, faults = names(["lost.jpg", "*.tiff", "empty", "z.jpg"])
    assert [path for path, _ in found] == ["z.jpg"]
    assert [fault.partition(":")[0] for fault in faults] == ["lost.jpg", "*.tiff", "empty"]


@pytest.mark.usefixtures("album")
def test_what_was_written_before_is_not_taken_for_a_photograph() -> None:
    Path("photos/masks").mkdir()
    Path("photos/masks/x.png").write_bytes(b"")
    assert "photos/masks/x.png" in dict(names(["photos"])[0])
    assert "photos/masks/x.png" not in dict(names(["photos"], out="photos/masks")[0])
    assert "photos/masks/x.png" not in dict(names(["photos/*/*"], out="photos/masks")[0])


def test_names_that_would_meet_keep_their_extensions() -> None:
    assert mask_names(["x.jpg", "x.png", "x.jpg.gif"]) == {"x.jpg": "x.jpg.png", "x.png": "x.png.png", "x.jpg.gif": "x.jpg.gif.png"}
    assert len(set(mask_names([f"a{end}" for end in (".jpg", ".png", ".png.jpg", ".jpg.png", "")]).values())) == 5


# ---- predictions


def test_photographs_of_all_kinds_get_masks_overlays_a_card_and_a_summary(aepsl: Command, model: Path) -> None:
    photograph("p/a/x.jpg", size=(200, 100))
    photograph("p/b/x.png", mode="RGBA")
    photograph("p/grey.tiff", mode="L")
    result = aepsl("predict", model, "p", "--out", "out", "--overlay")
    assert result.exit_code == 0, result.stderr
    assert files() == ["a/x.overlay.jpg", "a/x.png", "aepsl.json", "aepsl.masks.jsonl", "b/x.overlay.jpg", "b/x.png", "grey.overlay.jpg", "grey.png",
                       "summary.csv"]
    mask = decode_indices(Path("out/a/x.png").read_bytes())
    assert mask.shape == (100, 200)
    with Image.open("out/a/x.overlay.jpg") as overlay:
        assert overlay.size == (200, 100)
    card = json.loads(Path("out/aepsl.json").read_text())
    assert card["values"] == {"0": "background", "1": "cat", "2": "dog"}
    assert card["colours"] == {"cat": "#800000", "dog": "#008000"}
    assert (card["crf"], card["max_side"], len(card["sha256"])) == (False, 96, 64)
    rows = summary()
    assert [row["photograph"] for row in rows] == ["grey.tiff", "a/x.jpg", "b/x.png"]
    shares = [(mask == value).mean() for value in range(3)]
    assert [float(rows[1][name]) for name in ("background", *CLASSES)] == pytest.approx(shares, abs=1e-5)
    assert "out: 3 predicted" in result.stdout


def test_masks_with_crf_are_those_of_the_pipeline(finished: Checkout, aepsl: Command) -> None:
    images, predictions = ArchiveReader(finished / "data/images.zip"), ArchiveReader(finished / "data/predictions.zip")
    rows = read_index(finished / "data/index.csv").split("val")
    Path("p").mkdir()
    for identifier in rows.ids:
        name = next(name for name in images if name.startswith(f"{identifier}."))
        (Path("p") / name).write_bytes(images.read(name))
    result = aepsl("predict", finished / "models/aepsl.pt", "p", "--out", "out", "--crf", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert {name: (Path("out") / name).read_bytes() for name in files() if name.endswith(".png")} == {
        f"{identifier}.png": predictions.read(f"{identifier}.png") for identifier in rows.ids}


def test_a_bad_file_is_named_and_the_others_are_done(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    photograph("p/c.jpg", 1)
    Path("p/b.jpg").write_bytes(Path("p/a.jpg").read_bytes()[:200])
    Path("p/d.png").write_bytes(b"\x1b[31mno picture")
    result = aepsl("predict", model, "p", "lost.jpg", "--out", "out")
    assert result.exit_code == 1
    assert "failed: p/b.jpg: expected a complete photograph" in result.stderr
    assert "failed: p/d.png: expected a complete photograph" in result.stderr
    assert "left out: lost.jpg: no such file" in result.stderr
    assert "2 predicted" in result.stdout
    assert "3 failed (told above)" in result.stdout
    assert files() == ["a.png", "aepsl.json", "aepsl.masks.jsonl", "c.png", "summary.csv"]
    assert "Traceback" not in result.stderr


def test_the_same_command_does_what_is_left(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    photograph("p/b.jpg", 1)
    assert aepsl("predict", model, "p", "--out", "out").exit_code == 0
    first = summary()
    kept = Path("out/a.png")
    before = kept.stat().st_mtime_ns
    Path("out/b.png").unlink()
    result = aepsl("predict", model, "p", "--out", "out")
    assert "1 predicted" in result.stdout
    assert "1 were there" in result.stdout
    assert kept.stat().st_mtime_ns == before
    assert summary() == first
    assert "2 predicted" in aepsl("predict", model, "p", "--out", "out", "--overlay").stdout
    later = time.time() + 10
    photograph("p/a.jpg", 7)
    os.utime("p/a.jpg", (later, later))
    assert "1 predicted" in aepsl("predict", model, "p", "--out", "out", "--overlay").stdout


def test_a_mask_is_kept_for_the_photograph_it_was_made_of_alone(aepsl: Command, model: Path) -> None:
    photograph("a/x.jpg", 1, (40, 30))
    photograph("b/x.jpg", 2, (50, 30))
    assert aepsl("predict", model, "a", "--out", "out").exit_code == 0
    result = aepsl("predict", model, "b", "--out", "out")
    assert result.exit_code == 1
    assert "1 mask there would be overwritten by those of other photographs, such as x.png, which is of" in result.stderr
    assert "1 predicted" in aepsl("predict", model, "b", "--out", "out", "--overwrite").stdout
    assert [row["width"] for row in summary()] == ["50"]
    photograph("b/x.jpg", 3, (60, 30))
    os.utime("b/x.jpg", (1, 1))  # older than the mask
    assert "1 predicted" in aepsl("predict", model, "b", "--out", "out").stdout
    assert [row["width"] for row in summary()] == ["60"]
    photograph("b/x.png", 4)
    result = aepsl("predict", model, "b", "--out", "out")
    assert "2 predicted" in result.stdout
    assert "summary.csv: left out: 1 mask of earlier calls" in result.stderr
    assert [row["mask"] for row in summary()] == ["x.jpg.png", "x.png.png"]


def test_masks_with_other_options_are_made_anew_after_part_of_a_folder_was_overwritten(aepsl: Command, model: Path) -> None:
    for number, name in enumerate("ab"):
        photograph(f"p/{name}.jpg", number)
    assert aepsl("predict", model, "p", "--out", "out").exit_code == 0
    result = aepsl("predict", model, "p/a.jpg", "--out", "out", "--max-side", "32", "--overwrite")
    assert "left out: 1 mask of earlier calls" in result.stderr
    assert [row["mask"] for row in summary()] == ["a.png"]
    result = aepsl("predict", model, "p", "--out", "out", "--max-side", "32")
    assert "1 predicted" in result.stdout
    assert "1 were there" in result.stdout
    record = Path("out/aepsl.masks.jsonl")
    record.write_bytes(record.read_bytes()[:-9])  # killed while it was written
    assert "1 were there" in aepsl("predict", model, "p", "--out", "out", "--max-side", "32").stdout
    assert "2 were there" in aepsl("predict", model, "p", "--out", "out", "--max-side", "32").stdout


def test_an_interrupted_overwrite_goes_on_without_it(aepsl: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("abc"):
        photograph(f"p/{name}.jpg", number)
    assert aepsl("predict", model, "p", "--out", "out").exit_code == 0
    real = trained.Segmenter.predict

    def interrupted(self: trained.Segmenter, image: trained.Photograph, **options: Any) -> trained.Prediction:
        if Path("out/aepsl.masks.jsonl").read_bytes():  # the first is done
            raise Interrupted(signal.SIGINT)
        return real(self, image, **options)
    with monkeypatch.context() as patch:
        patch.setattr(trained.Segmenter, "predict", interrupted)
        result = aepsl("predict", model, "p", "--out", "out", "--max-side", "32", "--overwrite")
    assert result.exit_code == 130
    assert "1 of 3 photographs done; the same command without --overwrite does the rest" in result.stderr
    result = aepsl("predict", model, "p", "--out", "out", "--max-side", "32")
    assert "2 predicted" in result.stdout
    assert "1 were there" in result.stdout


def test_the_summary_keeps_what_earlier_calls_have_added(aepsl: Command, model: Path) -> None:
    for number, name in enumerate("abc"):
        photograph(f"{name}.jpg", number)
        assert aepsl("predict", model, f"{name}.jpg", "--out", "out").exit_code == 0
    assert sorted(row["photograph"] for row in summary()) == ["a.jpg", "b.jpg", "c.jpg"]
    Path("out/b.png").unlink()
    assert aepsl("predict", model, "a.jpg", "--out", "out").exit_code == 0
    assert [row["photograph"] for row in summary()] == ["a.jpg", "c.jpg"]


def test_masks_and_overlays_of_earlier_calls_are_no_photographs(aepsl: Command, model: Path) -> None:
    photograph("p/x.jpg")
    assert "p: 1 predicted" in aepsl("predict", model, "p", "--out", "p").stdout
    assert "p: 0 predicted, 1 were there" in aepsl("predict", model, "p", "--out", "p").stdout
    assert aepsl("predict", model, "p", "--out", "p/out", "--overlay").exit_code == 0
    for words in (["p"], ["p/*"], ["p/**/*.*g"]):
        result = aepsl("predict", model, *words, "--out", "other")
        assert re.match(r"other: (1 predicted|0 predicted, 1 were there)", result.stdout), words
    assert "left out in folders: 3 masks and overlays of earlier calls\n" in aepsl("predict", model, "p", "--out", "other").stderr


def test_what_is_passed_over_in_a_folder_is_counted(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    Path("p/a.jpg").rename("p/a.jfif")
    Path("elsewhere").mkdir()
    Path("p/link").symlink_to("../elsewhere")
    for name in ("b.HEIC", "c.heic", "bare", ".hidden"):
        Path("p", name).write_bytes(b"")
    result = aepsl("predict", model, "p", "--out", "out")
    assert result.exit_code == 0
    assert "left out in folders: 2 .heic, 1 linked folder, 1 file without extension\n" in result.stderr
    assert "1 predicted" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_leaves_the_summary_readable(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    os.rename(b"p/a.jpg", b"p/\xff.jpg")
    for _ in range(2):
        assert aepsl("predict", model, "p", "--out", "out").exit_code == 0
        assert [row["mask"] for row in summary()] == ["\\udcff.png"]


def test_masks_of_another_model_or_of_no_model_are_not_mixed_or_overwritten(aepsl: Command, model: Path, tmp_path: Path) -> None:
    photograph("p/a.jpg")
    (tmp_path / "m").mkdir()
    other = packed(tmp_path / "m", CLASSES, seed=2)
    assert aepsl("predict", model, "p", "--out", "out").exit_code == 0
    mask = Path("out/a.png").read_bytes()
    for words, differs in (((other,), "model"), ((model, "--crf"), "crf"), ((model, "--max-side", "32"), "max_side")):
        result = aepsl("predict", words[0], "p", "--out", "out", *words[1:])
        assert result.exit_code == 1
        assert f"holds masks of another {differs} " in result.stderr
    assert Path("out/a.png").read_bytes() == mask
    assert aepsl("predict", other, "p", "--out", "out", "--overwrite").exit_code == 0
    photograph("own/a.png", 5)
    before = Path("own/a.png").read_bytes()
    result = aepsl("predict", model, "p", "--out", "own")
    assert (result.exit_code, "1 file there, such as a.png, would be overwritten" in result.stderr) == (1, True)
    result = aepsl("predict", model, "own/a.png", "--out", "own", "--overwrite")
    assert (result.exit_code, "expected a folder in which no photograph lies" in result.stderr) == (1, True)
    assert Path("own/a.png").read_bytes() == before


def test_known_labels_restrict_what_is_found(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    photograph("p/deep/b.jpg", 1)
    Path("labels.csv").write_text("id,labels\na.jpg,\ndeep/b,dog;zebra\nnosuch,cat\n")
    result = aepsl("predict", model, "p", "--out", "out", "--labels", "labels.csv")
    assert result.exit_code == 0, result.stderr
    assert "labels.csv: 'zebra': not among the model's classes (cat, dog), so not looked for" in result.stderr
    assert "labels.csv: 1 of 3 lines match no photograph, such as 'nosuch'; an id is a photograph's name without extension" in result.stderr
    assert not decode_indices(Path("out/a.png").read_bytes()).any()
    assert set(np.unique(decode_indices(Path("out/deep/b.png").read_bytes()))) <= {0, 2}


def test_a_list_comes_from_stdin(aepsl: Command, model: Path) -> None:
    photograph("p/a.jpg")
    photograph("p/b\nb.jpg", 1)
    assert "1 predicted" in aepsl("predict", model, "-", "--out", "one", text="p/a.jpg\n").stdout
    result = aepsl("predict", model, "-", "--out", "out", text="p/a.jpg\0p/b\nb.jpg\0")
    assert result.exit_code == 0, result.stderr
    assert files()[:4] == ["a.png", "aepsl.json", "aepsl.masks.jsonl", "b\nb.png"]


def test_names_that_look_like_options_or_formulas_or_commands(aepsl: Command, model: Path) -> None:
    for number, name in enumerate(("-x.jpg", "=1+1.jpg", "a\x1b[31m.jpg", "é.jpg")):
        photograph(f"p/{name}", number)
    Path("p/\x1b]0;bad\x07.jpg").write_bytes(b"")
    result = aepsl("predict", model, "p", "--out", "out")
    assert result.exit_code == 1
    assert "\x1b" not in result.output
    assert "\\x1b]0;bad\\x07.jpg" in result.stderr
    assert {row["photograph"] for row in summary()} == {"./-x.jpg", "./=1+1.jpg", "a\x1b[31m.jpg", "é.jpg"}
    os.chdir("p")
    assert aepsl("predict", model, "--out", "../again", "--", "-x.jpg").exit_code == 0
    assert Path("../again/-x.png").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device that is always full")
def test_a_full_disk_ends_it_at_once_with_advice(aepsl: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph("p/a.jpg")
    photograph("p/b.jpg", 1)
    real = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: real(Path("/dev/full") if ".png" in path.name else path, data))
    result = aepsl("predict", model, "p", "--out", "out")
    assert result.exit_code == 1
    assert "out/a.png: No space left on device: the disk is full: free some space" in result.stderr
    assert "dvc repro" not in result.stderr
    assert "b.jpg" not in result.stderr
    assert files() == ["aepsl.json"]


@pytest.mark.parametrize(("words", "status", "said"), [
    (("lost.pt", "a.jpg", "--out", "out"), 1, "lost.pt: no such file"),
    (("a.jpg", "a.jpg", "--out", "out"), 1, "a.jpg: expected a model file of this project"),
    (("MODEL", "lost.jpg", "--out", "out"), 1, "expected photographs, found none"),
    (("MODEL", "a.jpg", "--out", "a.jpg"), 2, "expected a folder, found a file"),
    (("MODEL", "a.jpg"), 2, "Missing option '--out'"),
    (("MODEL", "a.jpg", "--out", ""), 2, "expected the name of a folder, found an empty one"),
    (("--debug", "MODEL", "a.jpg", "--out", "out"), 2, "--debug stands before it, as in `aepsl --debug predict`"),
    (("MODEL", "a.jpg", "--out", "out", "--device", "tpu"), 1, "expected auto, cpu, cuda, cuda:N or mps, found 'tpu'"),
    (("MODEL", "a.jpg", "--out", "out", "--labels", "lost.csv"), 1, "--labels lost.csv: expected a table as CSV in UTF-8, found No such file"),
])
def test_what_cannot_be_done_is_explained(aepsl: Command, model: Path, words: tuple[str, ...], status: int, said: str) -> None:
    photograph("a.jpg")
    result = aepsl("predict", *(model if word == "MODEL" else word for word in words))
    assert result.exit_code == status
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert not Path("out").exists() or files() == []


def test_ctrl_c_keeps_what_is_done_and_ends_with_130(model: Path, tmp_path: Path) -> None:
    for number in range(200):
        photograph(tmp_path / f"p/{number:03}.jpg", number, size=(96, 96))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "aepsl", "predict", model, "p", "--out", "out", "--crf"], cwd=tmp_path, env=environment,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out/002.png").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 130
    assert re.fullmatch(r"\n\d+ of 200 photographs done; the same command does the rest\nended by SIGINT\n", said)
    left = files(str(tmp_path / "out"))
    assert not [name for name in left if name.endswith(".tmp")]
    assert 3 <= len([name for name in left if name.endswith(".png")]) < 200
    masks = [name for name in left if name.endswith(".png")]
    for name in masks:
        assert decode_indices((tmp_path / "out" / name).read_bytes()).shape == (96, 96)
    assert sorted(recorded(tmp_path / "out")) == masks


# ---- the model itself


def test_a_model_tells_what_it_knows(aepsl: Command, model: Path, tmp_path: Path) -> None:
    text = aepsl("info", model).stdout
    assert "2: cat, dog" in text
    assert "trunk          mobilenet_v2" in text
    told = json.loads(aepsl("info", model, "--json").stdout)
    assert told["classes"] == ["cat", "dog"]
    assert told["sha256"] in text
    (tmp_path / "m").mkdir()
    result = aepsl("info", packed(tmp_path / "m", ("c\x1b[31mat",)))
    assert "\x1b" not in result.output
    assert aepsl("info", "lost.pt").exit_code == 1


def test_a_model_becomes_an_onnx_file(aepsl: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the file is tested beside what writes it, which takes its time."""
    asked: list[dict[str, object]] = []
    monkeypatch.setattr("aepsl.segmenter.Segmenter.to_onnx", lambda self, path, **options: (asked.append(options), path.write_bytes(b"x" * 2000)))
    result = aepsl("onnx", model, "--out", "m.onnx")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "m.onnx: 2 kB; labels 0 to 2: background, cat, dog\n"
    assert aepsl("onnx", model, "--out", "m.onnx", "--one-view").exit_code == 0
    assert asked == [{"scales": None, "flip": None}, {"scales": [1.0], "flip": False}]
    assert aepsl("onnx", model, "--out", ".").exit_code == 2
