import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey, encode_mask
from aepsl.data.index import Index
from aepsl.evaluation.truth import measured_on, truth_digest, with_truth, yardstick

MASKS = {"a": np.array([[0, 1, 255]], np.uint8), "b c": np.array([[2], [0]], np.uint8)}


def archive(path, entries: dict[str, bytes]) -> ArchiveReader:
    with ArchiveWriter(path) as out:
        for identifier, data in entries.items():
            out.add(f"{identifier}.png", data)
    return ArchiveReader(path)


@pytest.fixture
def truth(tmp_path):
    return archive(tmp_path / "truth.zip", {identifier: encode_mask(mask) for identifier, mask in MASKS.items()})


def index_of(splits: dict[str, str]) -> Index:
    return Index(("cat", "dog"), tuple(splits), tuple(splits.values()), np.ones((len(splits), 2), int), np.ones((len(splits), 2), bool))


def test_the_digest_is_that_of_a_line_per_mask(truth):
    lines = f"a 3x1 {hashlib.sha256(bytes([0, 1, 255])).hexdigest()}\nb c 1x2 {hashlib.sha256(bytes([2, 0])).hexdigest()}\n"
    assert truth_digest(["a", "b c"], truth, processes=1) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_digest_knows_order_names_shape_and_pixels_and_nothing_else(truth, tmp_path):
    digest = truth_digest(["a", "b c"], truth, processes=1)
    assert truth_digest(["b c", "a"], truth, processes=1) != digest
    assert truth_digest(["a"], truth, processes=1) != digest
    changes = {"renamed": {"a": MASKS["a"], "c": MASKS["b c"]}, "turned": MASKS | {"b c": MASKS["b c"].T},
               "another pixel": MASKS | {"a": MASKS["a"] * 0}}
    for name, masks in changes.items():
        other = archive(tmp_path / f"{name}.zip", {identifier: encode_mask(np.ascontiguousarray(mask)) for identifier, mask in masks.items()})
        assert truth_digest(list(masks), other, processes=1) != digest, name
    buffer = io.BytesIO()
    Image.fromarray(MASKS["a"]).save(buffer, "PNG", compress_level=0)
    rewritten = archive(tmp_path / "rewritten.zip", {"b c": encode_grey(MASKS["b c"]), "a": buffer.getvalue(), "unscored": b""})
    assert truth_digest(["a", "b c"], rewritten, processes=1) == digest


def test_the_digest_does_not_depend_on_the_number_of_processes(tmp_path):
    rng = np.random.default_rng([4])
    ids = [f"i{number:02d}" for number in range(40)]
    masks = archive(tmp_path / "truth.zip", {identifier: encode_mask(rng.integers(0, 3, (4, 5)).astype(np.uint8)) for identifier in ids})
    assert truth_digest(ids, masks, processes=2) == truth_digest(ids, masks, processes=1)


def test_scores_state_their_split_images_truth_and_policy_and_a_short_form_of_it(truth):
    index = index_of({"a": "val", "b c": "val", "d": "val", "e": "train"})
    assert with_truth(index, truth).ids == ("a", "b c")
    measured = measured_on(index, truth, "val", void_as="left-out", processes=1)
    digest = truth_digest(["a", "b c"], truth, processes=1)
    assert measured == {"split": "val", "images": 2, "images_without_truth": 1, "truth_sha256": digest, "void_as": "left-out"}
    assert yardstick(measured) == {"yardstick": f"val 2 left-out {digest[:8]}"}


def test_a_split_without_truth_says_so(truth):
    measured = measured_on(index_of({"e": "train"}), truth, "train", void_as="miss", processes=1)
    assert measured == {"split": "train", "images": 0, "images_without_truth": 1, "truth_sha256": None, "void_as": "miss"}
    assert "no masks" in yardstick(measured)["note"]
