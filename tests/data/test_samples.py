import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey, encode_mask, reduction, resized, resized_size
from aepsl.data.index import Index
from aepsl.data.samples import Augmentation, ErasedPhotographs, Photographs, Samples, batches, erase, read_mined
from aepsl.errors import AepslError

FILL = (255.0, 9.4, 9.6)
VARIED = Augmentation(crop=12, scale=(0.5, 2.0), mirror=True, fill=FILL)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def data_set(folder: Path, sizes: list[tuple[int, int]], classes: int = 2) -> tuple[Index, ArchiveReader, ArchiveReader]:
    """Random images of the given (width, height) whose mask is in the red channel."""
    rng = np.random.default_rng([3])
    index = Index(tuple(f"class {number}" for number in range(classes)), tuple(f"i{number}" for number in range(len(sizes))),
                  ("train",) * len(sizes), np.array(sizes), rng.random((len(sizes), classes)) < 0.6)
    with ArchiveWriter(folder / "images.zip") as images, ArchiveWriter(folder / "labels.zip") as labels:
        for identifier, (width, height) in zip(index.ids, sizes, strict=True):
            image = rng.integers(0, 256, (height, width, 3), np.uint8)
            image[..., 0] = rng.integers(0, classes + 1, (height, width))
            images.add(f"{identifier}.png", png(image))
            labels.add(f"{identifier}.png", encode_mask(image[..., 0]))
    return index, ArchiveReader(folder / "images.zip"), ArchiveReader(folder / "labels.zip")


def ramps(height: int, width: int) -> np.ndarray:
    """An image that tells where each of its pixels comes from: columns in red, rows in green."""
    return np.dstack([*np.broadcast_arrays(np.arange(width)[None], np.arange(height)[:, None]), np.zeros((height, width))]).astype(np.uint8)


# --- augmentation

SIDE = st.integers(1, 40)
SEED = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, st.booleans(), SEED)
def test_image_and_mask_stay_aligned_and_padding_is_fill_and_void(height, width, crop, mirror, seed):
    image = np.random.default_rng([seed]).integers(0, 255, (height, width, 3), np.uint8)
    fill_is_void = Augmentation(crop=crop, scale=(1, 1), mirror=mirror, fill=(255.0, 9.4, 9.6))
    cut, mask = fill_is_void(image, image[..., 0], np.random.default_rng([seed, 1]))
    assert (cut.shape, cut.dtype, mask.shape, mask.dtype) == ((crop, crop, 3), np.uint8, (crop, crop), np.uint8)
    np.testing.assert_array_equal(cut[..., 0], mask)
    assert (cut[mask == 255] == [255, 9, 10]).all()
    assert (mask != 255).sum() == min(height, crop) * min(width, crop)
    # What is left is one rectangle of the image, perhaps mirrored.
    inside = np.argwhere(mask != 255)
    (top, left), (bottom, right) = inside.min(0), inside.max(0) + 1
    part = cut[top:bottom, left:right]
    views = np.lib.stride_tricks.sliding_window_view(image, part.shape)
    mirrored = np.lib.stride_tricks.sliding_window_view(image, part.shape) == part[:, ::-1]
    assert (views == part).all((3, 4, 5)).any() or (mirror and mirrored.all((3, 4, 5)).any())


@settings(deadline=None)
@given(SIDE, SIDE, SIDE, st.floats(0.5, 2), st.floats(1, 2), st.booleans(), SEED)
def test_image_and_mask_stay_aligned_when_resized(height, width, crop, smallest, ratio, mirror, seed):
    augmentation = Augmentation(crop=crop, scale=(smallest, smallest * ratio), mirror=mirror, fill=(200, 200, 200))
    image = ramps(height, width)
    for channel in (0, 1):
        cut, mask = augmentation(image, image[..., channel], np.random.default_rng([seed]))
        known = mask != 255
        assert (cut[~known] == 200).all()
        # The nearest source pixel against a mean over 1 / factor of them.
        assert (abs(cut[known][:, channel].astype(int) - mask[known]) <= 2).all()


@pytest.mark.parametrize("seed", range(8))
def test_resizing_a_mask_invents_no_class(seed):
    mask = np.random.default_rng([seed]).choice(np.array([0, 7, 200], np.uint8), (20, 30))
    _, cut = VARIED(ramps(20, 30), mask, np.random.default_rng([seed]))
    assert set(np.unique(cut)) <= {0, 7, 200, 255}


def test_a_photograph_is_augmented_alike_with_and_without_a_mask():
    image = ramps(20, 30)
    with_mask, _ = VARIED(image, image[..., 0], np.random.default_rng([4]))
    without, nothing = VARIED(image, None, np.random.default_rng([4]))
    assert nothing is None
    np.testing.assert_array_equal(with_mask, without)


@pytest.mark.parametrize("side", [11, 5], ids=["crop inside the image", "image inside the crop"])
def test_every_offset_is_reached_equally_often(side):
    augmentation = Augmentation(crop=8, scale=(1, 1), mirror=False, fill=(255, 255, 255))
    counts = np.zeros((4, 4), int)
    for seed in range(640):
        cut, _ = augmentation(ramps(side, side), None, np.random.default_rng([seed]))
        left, top = cut[0, 0, :2] if side > 8 else np.argwhere(cut[..., 0] == 0).min(0)[::-1]
        counts[top, left] += 1
    assert counts.min() > 20  # 40 expected


def test_half_of_the_images_are_mirrored_or_none():
    for mirror, low, high in ((True, 80, 120), (False, 0, 0)):
        augmentation = Augmentation(crop=4, scale=(1, 1), mirror=mirror, fill=(0, 0, 0))
        flipped = sum(augmentation(ramps(4, 4), None, np.random.default_rng([seed]))[0][0, 0, 0] == 3 for seed in range(200))
        assert low <= flipped <= high


def test_the_resize_factor_is_drawn_evenly_on_a_logarithmic_scale():
    augmentation = Augmentation(crop=100, scale=(0.5, 2), mirror=False, fill=(255, 255, 255))
    widths = np.sort([(augmentation(np.zeros((2, 40, 3), np.uint8), None, np.random.default_rng([seed]))[0] == 0).any((0, 2)).sum()
                      for seed in range(300)])
    assert widths[0] >= 20
    assert widths[-1] <= 80
    np.testing.assert_allclose(np.log2(widths[[30, 150, 270]] / 40), [-0.8, 0, 0.8], atol=0.15)


def test_the_mirror_does_not_change_where_the_crop_lies():
    image = ramps(30, 30)
    mirrored = Augmentation(crop=8, scale=(1, 1), mirror=True, fill=(0, 0, 0))
    plain = Augmentation(crop=8, scale=(1, 1), mirror=False, fill=(0, 0, 0))
    for seed in range(20):
        one, two = (augmentation(image, None, np.random.default_rng([seed]))[0] for augmentation in (mirrored, plain))
        assert (one == two).all() or (one[:, ::-1] == two).all()


# --- erasing

def test_erasing_fills_exactly_the_regions_with_the_mean_pixel():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    erased = erase(image, np.array([[True, False], [False, True]]), (123.5, 116.4, 103.6))
    assert erased.tolist() == [[[124, 116, 104], [3, 4, 5]], [[6, 7, 8], [124, 116, 104]]]
    assert image[0, 0].tolist() == [0, 1, 2]


def test_in_round_zero_nothing_is_mined(tmp_path):
    index = Index(("a", "b", "c"), ("i0", "i1"), ("train",) * 2, np.array([[3, 2], [4, 5]]), np.array([[True, False, True], [False] * 3]))
    with ArchiveWriter(tmp_path / "r0.zip") as out:
        out.add("rounds.json", b"[]")
    mined = read_mined(ArchiveReader(tmp_path / "r0.zip"), index, 0)
    assert list(mined) == [1, 3]
    for region in mined.values():
        assert (region.shape, region.dtype, region.any()) == ((2, 3), np.uint8, False)
    assert read_mined(ArchiveReader(tmp_path / "r0.zip"), index, 1) == {}


def test_everything_mined_for_any_class_in_any_round_is_erased(tmp_path):
    index, images, _ = data_set(tmp_path, [(3, 1), (3, 1), (3, 1)])
    index.labels[:] = [[True, True], [False, True], [False, False]]
    with ArchiveWriter(tmp_path / "mined.zip") as out:
        out.add("i0/1.png", encode_grey(np.array([[1, 0, 3]], np.uint8)))
        out.add("i0/2.png", encode_grey(np.array([[0, 2, 0]], np.uint8)))
        out.add("i1/1.png", encode_grey(np.array([[1, 1, 1]], np.uint8)))  # not a label of this image
        out.add("i1/2.png", encode_grey(np.array([[0, 0, 2]], np.uint8)))
    mined = ArchiveReader(tmp_path / "mined.zip")
    assert {label: region.tolist() for label, region in read_mined(mined, index, 0).items()} == {1: [[1, 0, 3]], 2: [[0, 2, 0]]}
    plain, erased = Photographs(images, index), ErasedPhotographs(images, index, mined, (7.0, 8.0, 9.0))
    for row, regions in enumerate([[True, True, True], [False, False, True], [False, False, False]]):
        expected = np.where(np.array(regions)[None, :, None], np.array([7, 8, 9], np.uint8), plain[row])
        np.testing.assert_array_equal(erased[row], expected)
    assert len(erased) == 3


# --- photographs and samples

def test_photographs_follow_the_index_whatever_their_extension(tmp_path):
    with ArchiveWriter(tmp_path / "images.zip") as out:
        out.add("b/x.y.png", png(np.full((2, 2, 3), 2, np.uint8)))
        out.add("unused.jpg", b"")
        out.add("a.PNG", png(np.full((2, 2, 3), 1, np.uint8)))
    index = Index(("c",), ("a", "b/x.y"), ("train",) * 2, np.full((2, 2), 2), np.ones((2, 1), bool))
    photographs = Photographs(ArchiveReader(tmp_path / "images.zip"), index)
    assert [int(photographs[row].max()) for row in range(len(photographs))] == [1, 2]


def test_a_missing_image_is_found_before_training(tmp_path):
    index, images, _ = data_set(tmp_path, [(2, 2)])
    more = Index(index.classes, ("i0", "i8", "i9"), ("train",) * 3, np.ones((3, 2), int), np.ones((3, 2), bool))
    with pytest.raises(AepslError, match=r"images\.zip: expected every image of the index, 2 are missing, first 'i8'"):
        Photographs(images, more)


def test_a_sample_holds_image_labels_and_mask(tmp_path):
    index, images, labels = data_set(tmp_path, [(8, 8)])
    plain = Augmentation(crop=8, scale=(1, 1), mirror=False, fill=FILL)
    sample = Samples(Photographs(images, index), plain, seed=0, masks=labels)[0, 0]
    assert (sample["id"], sample["image"].dtype, sample["image"].shape) == ("i0", np.uint8, (8, 8, 3))
    assert sample["labels"].tolist() == index.labels[0].tolist()
    assert (sample["mask"] == sample["image"][..., 0]).all()
    without = Samples(Photographs(images, index), plain, seed=0)[0, 0]
    assert without.keys() == {"id", "image", "labels"}


def test_a_missing_pseudo_label_is_named(tmp_path):
    index, images, _ = data_set(tmp_path, [(8, 8)])
    with ArchiveWriter(tmp_path / "other.zip") as out:
        out.add("x.png", b"")
    samples = Samples(Photographs(images, index), VARIED, seed=0, masks=ArchiveReader(tmp_path / "other.zip"))
    with pytest.raises(AepslError, match=r"other\.zip: expected an entry 'i0\.png'"):
        samples[0, 0]


def test_augmentation_depends_on_seed_epoch_and_row_alone(tmp_path):
    index, images, labels = data_set(tmp_path, [(20, 16), (20, 16)])

    def draw(seed: int, keys: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        samples = Samples(Photographs(images, index), VARIED, seed=seed, masks=labels)
        return {key: samples[key]["image"].tobytes() for key in keys}

    keys = [(epoch, row) for epoch in range(3) for row in range(2)]
    first = draw(1, keys)
    assert draw(1, [*keys[::-1], *keys]) == first
    assert len(set(first.values())) == len(keys)
    assert not set(first.values()) & set(draw(2, keys).values())


def test_the_number_of_workers_changes_nothing(tmp_path):
    index, images, labels = data_set(tmp_path, [(9 + number, 20 - number) for number in range(7)])
    samples = Samples(Photographs(images, index), VARIED, seed=5, masks=labels)
    assert len(samples) == 7
    samples[0, 0]  # the archives are open when the workers start
    plan = list(batches(7, 3, 5, seed=5))
    serial, parallel = ([(batch["id"], batch["image"].numpy().tobytes(), batch["mask"].numpy().tobytes(), batch["labels"].tolist())
                         for batch in DataLoader(samples, batch_sampler=plan, num_workers=workers, multiprocessing_context=context)]
                        for workers, context in ((0, None), (2, "fork")))
    assert serial == parallel
    assert [ids for ids, *_ in serial] == [[f"i{row}" for _, row in batch] for batch in plan]


# --- order

def test_batches_by_hand():
    plan = list(batches(5, 2, 5, seed=1))
    assert [[epoch for epoch, _ in batch] for batch in plan] == [[0, 0], [0, 0], [1, 1], [1, 1], [2, 2]]
    assert plan == list(batches(5, 2, 5, seed=1))
    assert plan != list(batches(5, 2, 5, seed=2))


def test_a_batch_larger_than_the_data_set_is_the_data_set():
    assert [sorted(batch) for batch in batches(3, 8, 2, seed=0)] == [[(0, 0), (0, 1), (0, 2)], [(1, 0), (1, 1), (1, 2)]]


def test_every_image_is_left_out_in_some_epoch_only():
    seen = {row for batch in batches(5, 4, 20, seed=0) for _, row in batch}
    assert seen == set(range(5))


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 60), st.integers(0, 60), SEED)
def test_an_epoch_shows_every_image_at_most_once_and_a_longer_plan_starts_like_a_shorter_one(count, batch, total, more, seed):
    plan = list(batches(count, batch, total, seed=seed))
    assert len(plan) == total
    assert all(len(part) == min(batch, count) for part in plan)
    per_epoch = count // min(batch, count)
    for start in range(0, total, per_epoch):
        keys = [key for part in plan[start:start + per_epoch] for key in part]
        assert {epoch for epoch, _ in keys} == {start // per_epoch}
        assert len(set(keys)) == len(keys)
        assert {row for _, row in keys} <= set(range(count))
        if count % min(batch, count) == 0 and start + per_epoch <= total:
            assert sorted(row for _, row in keys) == list(range(count))
    assert list(batches(count, batch, total + more, seed=seed))[:total] == plan


def test_mined_regions_of_another_size_are_named(tmp_path):
    index, _, _ = data_set(tmp_path, [(4, 3)])
    index = replace(index, labels=np.ones_like(index.labels))
    with ArchiveWriter(tmp_path / "r1.zip") as archive:
        archive.add("i0/1.png", encode_grey(np.zeros((4, 3), np.uint8)))
    with pytest.raises(AepslError, match=r"r1\.zip: entry 'i0/1\.png': expected the size of its image, 4×3, found 3×4"):
        read_mined(ArchiveReader(tmp_path / "r1.zip"), index, 0)


# --- reduced decoding

def jpegs(folder: Path) -> tuple[Index, ArchiveReader]:
    """A smooth picture with some texture, as a photograph is, of odd sizes."""
    rows, columns = np.mgrid[:203, :301] / 40
    texture = np.random.default_rng([8]).normal(0, 6, (203, 301, 3))
    planes = np.stack([np.sin(rows + columns), np.cos(2 * rows), np.sin(3 * columns)], 2) * 90 + 128 + texture
    buffer = io.BytesIO()
    Image.fromarray(planes.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    with ArchiveWriter(folder / "jpegs.zip") as out:
        out.add("j0.jpg", buffer.getvalue())
    return Index(("a", "b"), ("j0",), ("train",), np.array([[301, 203]]), np.array([[True, True]])), ArchiveReader(folder / "jpegs.zip")


@pytest.mark.parametrize(("factor", "step"), [(1.5, 1), (1.0, 1), (0.6, 1), (0.49, 2), (0.3, 2), (0.24, 4), (0.12, 8), (0.02, 8)])
def test_a_jpeg_is_decoded_no_larger_than_its_resizing_needs_and_no_smaller(tmp_path, factor, step):
    index, images = jpegs(tmp_path)
    image, full = Photographs(images, index).reduced(0, factor)
    assert (full, image.shape) == ((301, 203), (-(-203 // step), -(-301 // step), 3))
    assert reduction(image, full) == step
    assert image.shape[0] >= round(203 * factor) or step == 1


def test_a_png_is_decoded_whole(tmp_path):
    index, images, _ = data_set(tmp_path, [(40, 30)])
    image, full = Photographs(images, index).reduced(0, 0.1)
    assert full == (40, 30)
    np.testing.assert_array_equal(image, Photographs(images, index)[0])


@pytest.mark.parametrize("factor", [0.49, 0.4, 0.24, 0.11])
def test_reduced_decoding_differs_less_than_one_resampling_from_another(tmp_path, factor):
    index, images = jpegs(tmp_path)
    photographs = Photographs(images, index)
    size = resized_size((301, 203), factor)
    whole = Image.fromarray(photographs[0])
    bilinear, sharper, blocks = (np.asarray(whole.resize(size, kind), float) for kind in (
        Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX))
    found = resized(*photographs.reduced(0, factor), size).astype(float)
    usual = max(abs(sharper - bilinear).mean(), abs(blocks - bilinear).mean())
    assert abs(found - bilinear).mean() <= usual


@pytest.mark.parametrize("factor", [0.45, 0.2])
def test_masks_and_mined_regions_follow_a_reduced_photograph(tmp_path, factor):
    index, images = jpegs(tmp_path)
    region = np.zeros((203, 301), np.uint8)
    region[101:, 33:157] = 1
    with ArchiveWriter(tmp_path / "mined.zip") as out:
        out.add("j0/2.png", encode_grey(region))
    with ArchiveWriter(tmp_path / "labels.zip") as out:
        out.add("j0.png", encode_mask(region))
    plain = Augmentation(crop=140, scale=(factor, factor), mirror=True, fill=(255.0, 0.0, 255.0))
    erased = ErasedPhotographs(images, index, ArchiveReader(tmp_path / "mined.zip"), plain.fill)
    sample = Samples(erased, plain, seed=2, masks=ArchiveReader(tmp_path / "labels.zip"))[0, 0]
    filled = (sample["image"] == [255, 0, 255]).all(2)
    inside, outside = sample["mask"] == 1, sample["mask"] == 0
    away = np.lib.stride_tricks.sliding_window_view(np.pad(outside, 2, constant_values=True), (5, 5)).all((2, 3))
    deep = np.lib.stride_tricks.sliding_window_view(np.pad(~outside, 2, constant_values=True), (5, 5)).all((2, 3))
    assert inside.sum() > 100
    assert filled[deep & inside].all()
    assert not filled[away & outside].any()
    whole, _ = plain(erased[0], region, np.random.default_rng([2, 0, 0]))
    assert whole.shape == sample["image"].shape
    assert abs(whole.astype(float) - sample["image"])[deep | away].mean() < 2.5
