"""The generated data set: exact masks, small telling heads, bodies that tell little, nothing else that tells anything."""

import io

import numpy as np
import pytest
from PIL import Image

from aepsl.data import shapes, voc
from aepsl.data.archive import ArchiveReader, decode_indices

COUNT = 120


@pytest.fixture(scope="module")
def samples() -> list[shapes.Sample]:
    return [shapes.generate(7, index, 96) for index in range(COUNT)]


def test_an_image_depends_on_seed_and_index_alone() -> None:
    first, again, other_seed, other_index = (shapes.generate(*key, 64) for key in ((1, 5), (1, 5), (2, 5), (1, 6)))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    for other in (other_seed, other_index):
        assert first.image.shape != other.image.shape or (first.image != other.image).mean() > 0.5


@pytest.mark.parametrize("size", [48, 200])
def test_sides_lie_between_seven_eighths_of_the_size_and_the_size(size: int) -> None:
    for index in range(5):
        sample = shapes.generate(0, index, size)
        assert sample.image.shape == (*sample.mask.shape, 3)
        assert sample.image.dtype == np.uint8
        assert size * 7 / 8 <= min(sample.mask.shape)
        assert max(sample.mask.shape) <= size


def test_mask_part_labels_and_boxes_agree(samples: list[shapes.Sample]) -> None:
    for sample in samples:
        assert np.array_equal(sample.mask > 0, sample.part > 0)
        assert set(np.flatnonzero(sample.labels) + 1) == set(np.unique(sample.mask)) - {0} == {kind for kind, _ in sample.objects}
        assert 1 <= len(sample.objects) <= 3
        for kind in set(np.unique(sample.mask)) - {0}:
            boxes = [box for number, box in sample.objects if number == kind]
            covered = np.zeros(sample.mask.shape, bool)
            for xmin, ymin, xmax, ymax in boxes:
                covered[ymin - 1:ymax, xmin - 1:xmax] = True
            assert covered[sample.mask == kind].all()


def test_every_object_shows_its_head_and_heads_are_a_small_part(samples: list[shapes.Sample]) -> None:
    shares = []
    for sample in samples:
        for kind in np.flatnonzero(sample.labels) + 1:
            parts = sample.part[sample.mask == kind]
            assert (parts == shapes.HEAD).any()
            assert (parts == shapes.BODY).any()
        shares.append((sample.part == shapes.HEAD).sum() / (sample.part > 0).sum())
    assert shapes.HEAD_SHARE[0] <= np.mean(shares) <= shapes.HEAD_SHARE[1] < 0.25
    assert np.percentile(shares, 2) > 0.15
    assert np.percentile(shares, 98) < 0.28


def test_a_disc_around_the_head_does_not_segment_the_object(samples: list[shapes.Sample]) -> None:
    best = []
    for sample in samples:
        if len(sample.objects) == 1:
            ys, xs = np.nonzero(sample.part == shapes.HEAD)
            grid = np.mgrid[:sample.mask.shape[0], :sample.mask.shape[1]]
            distance = np.hypot(grid[0] - ys.mean(), grid[1] - xs.mean())
            solid = sample.mask > 0
            best.append(max(((distance < radius) & solid).sum() / ((distance < radius) | solid).sum() for radius in range(4, 96, 2)))
    assert np.mean(best) < 0.5  # intersection over union, the best radius being chosen per image


def test_objects_are_visible_and_leave_background(samples: list[shapes.Sample]) -> None:
    share = [(sample.mask > 0).mean() for sample in samples]
    assert 0.08 < np.mean(share) < 0.3
    assert min(share) > 0.02
    assert max(share) < 0.5
    longest = [max(box[2] - box[0], box[3] - box[1]) / max(sample.mask.shape) for sample in samples for _, box in sample.objects]
    assert np.percentile(longest, 2) > 0.2


def test_class_frequencies_are_balanced() -> None:
    first = [np.random.default_rng([9, index // 5, 1]).permutation(5)[index % 5] for index in range(25)]
    assert np.bincount(first).tolist() == [5] * 5
    labels = np.array([shapes.generate(9, index, 48).labels for index in range(100)]).sum(0)
    assert labels.min() > 20
    assert labels.max() < 50


def test_a_body_tells_the_class_only_weakly() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(5), 1000)
    styles = [shapes.body_style(rng, kind) for kind in kinds.tolist()]
    textures, hues = np.array([style[0] for style in styles]), np.array([style[1] for style in styles])
    # Bayes' rule with the true densities: no classifier that sees texture and hue exactly does better.
    turns = (hues[:, None] - np.array(shapes.BODY_HUES))[..., None] + np.arange(-2, 3)
    density = np.exp(-0.5 * (turns / shapes.BODY_HUE_SPREAD) ** 2).sum(-1)
    density *= np.where(textures[:, None] == np.arange(5), shapes.OWN_TEXTURE, (1 - shapes.OWN_TEXTURE) / 4)
    assert 0.5 < (density.argmax(1) == kinds).mean() < 0.65


def test_neither_place_nor_size_nor_background_tells_the_class() -> None:
    facts: dict[int, list[list[float]]] = {kind: [] for kind in range(1, 6)}
    for index in range(400):
        sample = shapes.generate(3, index, 48)
        if len(sample.objects) == 1:
            ys, xs = np.nonzero(sample.mask)
            height, width = sample.mask.shape
            around = sample.image[sample.mask == 0].mean(0) / 255
            facts[sample.objects[0][0]].append([ys.mean() / height, xs.mean() / width, len(ys) / (height * width), *around])
    every = np.concatenate([np.array(rows) for rows in facts.values()])
    for rows in facts.values():
        z = (np.mean(rows, 0) - every.mean(0)) / (every.std(0) / np.sqrt(len(rows)))
        assert np.abs(z).max() < 4


def test_pack_writes_a_voc_layout_with_part_maps(tmp_path) -> None:
    assert shapes.pack(tmp_path / "raw.zip", seed=2, train=4, val=3, size=48) == {"train": 4, "val": 3}
    archive = ArchiveReader(tmp_path / "raw.zip")
    train, val = (voc.parse_list(archive.read(f"ImageSets/Segmentation/{split}.txt").decode()) for split in ("train", "val"))
    assert val == ["shapes_00001", "shapes_00002", "shapes_00003"]
    assert train[0] == "shapes_00004"
    assert len(train) == 4
    for index, identifier in enumerate(val + train):
        sample = shapes.generate(2, index, 48)
        assert np.array_equal(decode_indices(archive.read(f"SegmentationClass/{identifier}.png")), sample.mask)
        assert np.array_equal(decode_indices(archive.read(f"Parts/{identifier}.png")), sample.part)
        with Image.open(io.BytesIO(archive.read(f"JPEGImages/{identifier}.jpg"))) as image:
            assert np.abs(np.asarray(image).astype(int) - sample.image).mean() < 12
        names = voc.parse_annotation(archive.read(f"Annotations/{identifier}.xml"))
        assert names == [shapes.CLASSES[kind - 1] for kind, _ in sample.objects]
    description = voc.Description.from_json(archive.read("dataset.json"))
    assert description.classes == list(shapes.CLASSES)
    assert description.mask_values == {name: i + 1 for i, name in enumerate(shapes.CLASSES)}


def test_a_larger_train_keeps_val_and_the_smaller_train(tmp_path) -> None:
    shapes.pack(tmp_path / "small.zip", seed=2, train=2, val=2, size=48)
    shapes.pack(tmp_path / "large.zip", seed=2, train=4, val=2, size=48)
    small, large = ArchiveReader(tmp_path / "small.zip"), ArchiveReader(tmp_path / "large.zip")
    for entry in small:
        if not entry.startswith("ImageSets/Segmentation/train"):
            assert small.read(entry) == large.read(entry)


def test_equal_parameters_give_equal_bytes(tmp_path) -> None:
    for name in ("a.zip", "b.zip"):
        shapes.pack(tmp_path / name, seed=2, train=3, val=1, size=48)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
