"""docs/tutorial.md: every command on it, in its order, in a fresh clone; on few and small generated photographs."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from tests.conftest import TINY, Checkout

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?ms)^```bash\n(.*?)^```$", PAGE)
SMALL = {**{f"{stage}.{key}": value for stage in ("classify", "segment") for key, value in
            (("network.weights", "none"), ("network.width", 0.1), ("network.frozen_stages", 0), ("training.length", 2.0), ("training.batch", 4),
             ("training.crop", 49))},
         "rounds": {"r1": "r0"}, "last_round": "r1", "classify.further_rounds.length": 1.0,
         "saliency.size": 64, "refine.custom.iterations": 1, "mine.scales": [1.0], "relabel.flip": False,
         "compute": TINY["compute"]}
# What is different here from what people type, each with its reason; each must be found once.
INSTEAD = {
    # The environment that runs the tests takes the place of one that would take gigabytes.
    "make demo": 'mkdir .venv && ln -s "$ENVIRONMENT"/* .venv && rm -f .venv/ready && touch .venv/ready\nmake demo',
    # One round of few steps, a narrow network, and no weights to download.
    "cp presets/photos-quick.yaml params.yaml": "cp presets/photos-quick.yaml params.yaml\npython ../small.py",
}


def photographs(finished: Checkout, home: Path) -> None:
    """Pictures of three classes as a camera leaves them: large, one of them turned; and new ones without a class."""
    index = read_index(finished / "data/index.csv")
    pictures = Photographs(ArchiveReader(finished / "data/images.zip"), index)
    for row, identifier in enumerate(index.ids):
        label = f"class-{int(np.flatnonzero(index.labels[row])[0]) % 3}"
        folder = home / "Pictures" / (f"animals/{label}" if index.splits[row] == "train" else "new")
        folder.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if row % 5 == 0 else 1
        ending = "JPG" if row % 4 == 0 and folder.name != "new" else "jpg"
        Image.fromarray(pictures[row]).resize((300, 260)).save(folder / f"IMG {identifier}.{ending}", exif=exif)


@pytest.fixture(scope="module")
def walked(finished: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone in which all blocks have run."""
    here = tmp_path_factory.mktemp("tutorial")
    origin = finished.copy(here / "origin")
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "presets", "tools", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, origin / name)
    cache = here / "cache"
    (origin / ".dvc/cache").rename(cache)
    (here / "settings").mkdir()
    (here / "settings/config").write_text(f"[cache]\n    dir = {cache}\n")
    photographs(finished, here / "home")
    (here / "small.py").write_text(
        "import yaml\nparams = yaml.safe_load(open('params.yaml'))\n"
        f"for path, value in {SMALL!r}.items():\n    *groups, key = path.split('.')\n    group = params\n"
        "    for name in groups:\n        group = group[name]\n    group[key] = value\nyaml.safe_dump(params, open('params.yaml', 'w'))\n")
    # `aepsl` is the clone's, not that of the checkout for which the environment was made.
    (here / "bin").mkdir()
    (here / "bin/aepsl").write_text(f'#!/bin/sh\nexec {sys.executable} -m aepsl "$@"\n')
    (here / "bin/aepsl").chmod(0o755)
    environment = origin.environment() | {
        "HOME": str(here / "home"), "ENVIRONMENT": sys.prefix, "DVC_GLOBAL_CONFIG_DIR": str(here / "settings"),
        "PYTHONPATH": f"{here / 'aepsl/src'}{os.pathsep}{here / 'aepsl'}",
        "GIT_CONFIG_COUNT": "3", "GIT_CONFIG_KEY_0": f"url.{origin.folder}.insteadOf", "GIT_CONFIG_VALUE_0": "git@example.org:lab/aepsl.git",
        "GIT_CONFIG_KEY_1": "user.name", "GIT_CONFIG_VALUE_1": "A Reader",
        "GIT_CONFIG_KEY_2": "user.email", "GIT_CONFIG_VALUE_2": "reader@example.org"}
    environment["PATH"] = f"{here / 'bin'}{os.pathsep}{environment['PATH']}"
    git = ["git", "-C", str(origin.folder)]
    subprocess.run([*git, "add", "--all"], env=environment, check=True, capture_output=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "A run"], env=environment, check=True, capture_output=True)

    script = "set -e\n" + "".join(f"{block}\nhash -p {here}/bin/aepsl aepsl\necho '== block {number} done'\n" for number, block in enumerate(BLOCKS))
    for text, other in INSTEAD.items():
        assert script.count(f"{text}\n") == 1, f"docs/tutorial.md: expected one line {text!r}"
        script = script.replace(f"{text}\n", f"{other}\n")
    result = subprocess.run(["bash"], input=script, cwd=here, env=environment, capture_output=True, text=True, timeout=3600, check=False)
    done = re.findall(r"(?m)^== block (\d+) done$", result.stdout)
    assert done == [str(number) for number in range(len(BLOCKS))], f"{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    assert result.returncode == 0
    (here / "said").write_text(result.stdout)
    return here / "aepsl"


def test_every_command_of_the_tutorial_works(walked: Path) -> None:
    assert len(BLOCKS) >= 7
    assert "mean IoU, %" in (walked.parent / "said").read_text()


def test_the_photographs_are_small_upright_and_labelled(walked: Path) -> None:
    with (walked / "my-images/labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["labels"] for row in rows} <= {"class-0", "class-1", "class-2"}
    sizes = set()
    for row in rows:
        with Image.open(walked / f"my-images/JPEGImages/{row['id']}.jpg") as image:
            sizes.add(image.size)
            assert image.getexif().get(0x0112, 1) == 1
    assert sizes == {(256, 222), (222, 256)}
    lists = walked / "my-images/ImageSets/Segmentation"
    listed = [identifier for name in ("train", "val") for identifier in (lists / f"{name}.txt").read_text().splitlines()]
    assert sorted(listed) == sorted(row["id"] for row in rows)


def test_the_run_is_that_of_the_photographs(walked: Path) -> None:
    assert yaml.safe_load((walked / "params.yaml").read_text())["data"]["source"] == "folder"
    assert (walked / "report/index.html").is_file()
    assert len(read_index(walked / "data/index.csv")) == 12


def test_new_photographs_have_masks_and_overlays(walked: Path) -> None:
    for photo in (walked.parent / "home/Pictures/new").glob("*.jpg"):
        made = sorted(path.name for path in (walked / "out").glob(f"{photo.stem}*"))
        assert len(made) == 2, made
        with Image.open(walked / "out" / f"{photo.stem}.png") as mask:
            assert mask.mode == "P"
            assert mask.size in {(300, 260), (260, 300)}
