import io
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aepsl.data.archive import decode_reduced
from aepsl.errors import AepslError
from aepsl.mining.saliency import (
    boundary_connectivity,
    load_map,
    missing_maps,
    saliency,
    superpixels,
    user_maps,
    working_scale,
)

SETTINGS = {"size": 64, "superpixel": 32, "compactness": 10.0}


def encoded(values: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def disc(height: int = 48, width: int = 64, centre: tuple[int, int] = (24, 32), radius: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on a green ground with a little noise, and where it is."""
    rows, columns = np.indices((height, width))
    inside = (rows - centre[0])**2 + (columns - centre[1])**2 < radius**2
    image = np.where(inside[..., None], (200, 40, 40), (40, 140, 60))
    noise = np.random.default_rng([7]).integers(-8, 9, image.shape)
    return (image + noise).astype(np.uint8), inside


@pytest.mark.parametrize("optimise", [True, False])
def test_an_object_off_the_border_stands_out(optimise):
    image, inside = disc()
    result = saliency(image, optimise=optimise, **SETTINGS)
    assert result.shape == inside.shape
    assert result.dtype == np.float32
    assert (result.min(), result.max()) == (0, 1)
    assert result[inside].mean() > 0.8
    assert result[~inside].mean() < 0.1


def test_a_background_that_an_object_cuts_in_two_stays_background():
    image, inside = disc(48, 64, (24, 32), 11)
    inside[:, 28:36] = True  # now the object reaches from top to bottom, and each half of the ground only its own sides
    image[inside] = (200, 40, 40)
    result = saliency(image, optimise=True, **SETTINGS)
    assert result[:, :20].max() < 0.2
    assert result[:, -20:].max() < 0.2
    assert result[24, 32] > 0.8


def test_boundary_connectivity_of_two_regions_by_hand():
    # Four border superpixels of one colour around one, infinitely different, inside: 4/√4 and 0/√1.
    distance = np.zeros((5, 5))
    distance[4, :4] = distance[:4, 4] = 1e6
    edges = np.array([[0, 1], [1, 2], [2, 3], [0, 4], [1, 4], [2, 4], [3, 4]])
    border = np.array([True] * 4 + [False])
    np.testing.assert_allclose(boundary_connectivity(distance, edges, border, sigma=10), [2, 2, 2, 2, 0])


def test_boundary_connectivity_falls_with_geodesic_distance_not_with_plain_distance():
    # 0 - 1 - 2 in steps of 10 = sigma: distance from 0 to 2 along the path is 20, although their colours differ by 0.
    distance = np.array([[0, 10, 0], [10, 0, 10], [0, 10, 0]], float)
    found = boundary_connectivity(distance, np.array([[0, 1], [1, 2]]), np.array([True, False, False]), sigma=10)
    near, far = np.exp(-1 / 2), np.exp(-4 / 2)
    np.testing.assert_allclose(found, [1 / np.sqrt(1 + near + far), near / np.sqrt(1 + 2 * near), far / np.sqrt(1 + near + far)])


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 77)])
@pytest.mark.parametrize("optimise", [True, False])
def test_an_image_of_one_colour_has_no_saliency(colour, optimise):
    image = np.full((40, 56, 3), colour, np.uint8)
    np.testing.assert_array_equal(saliency(image, optimise=optimise, **SETTINGS), np.zeros((40, 56), np.float32))


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 3), (1, 300), (300, 1), (2, 900), (48, 48), (5, 700), (31, 17)])
@pytest.mark.parametrize("grey", [True, False])
def test_any_size_and_grey_images_give_finite_maps_of_the_image_size(size, grey):
    image = np.random.default_rng([*size]).integers(0, 256, (*size, 1 if grey else 3), np.uint8)
    image = np.repeat(image, 3, 2) if grey else image
    for optimise in (True, False):
        for superpixel in (16, 100_000):  # the second makes one superpixel of the whole image
            result = saliency(image, size=64, superpixel=superpixel, compactness=10, optimise=optimise)
            assert result.shape == size
            assert np.isfinite(result).all()
            assert 0 <= result.min() <= result.max() <= 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_range_and_repeatability_hold_for_any_image(height, width, coarse, seed):
    image = np.random.default_rng([seed]).integers(0, 256, (-(-height // coarse), -(-width // coarse), 3), np.uint8)
    image = image.repeat(coarse, 0).repeat(coarse, 1)[:height, :width]
    first, second = (saliency(image, size=40, superpixel=20, compactness=10, optimise=True) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.min() == 0
    assert first.max() in (0, 1)


def test_a_larger_image_is_worked_on_at_the_given_size():
    image, inside = disc(48, 64)
    large = saliency(image.repeat(4, 0).repeat(4, 1), optimise=True, **SETTINGS)
    assert large.shape == (192, 256)
    assert np.corrcoef(large[2::4, 2::4].ravel(), inside.ravel())[0, 1] > 0.9


def test_superpixels_are_numbered_without_gaps_and_of_about_the_target_area():
    lab = np.random.default_rng([4]).normal(50, 2, (60, 80, 3))
    labels = superpixels(lab, superpixel=48, compactness=10)
    np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert 70 <= labels.max() + 1 <= 130  # 100 asked for


def test_user_maps_keep_their_values():
    grey = np.array([[0, 51, 255]], np.uint8)
    np.testing.assert_allclose(load_map(encoded(grey), size=(3, 1), name="a"), [[0, 0.2, 1]], rtol=1e-6)
    deep = np.array([[0, 13107, 65535]], np.uint16)
    result = load_map(encoded(deep), size=(3, 1), name="a")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0, 0.2, 1]], rtol=1e-6)
    np.testing.assert_allclose(load_map(encoded(np.full((8, 8), 204, np.uint8), "JPEG"), size=(8, 8), name="a"), 0.8, atol=0.01)


@pytest.mark.parametrize(("data", "message"), [
    (encoded(np.zeros((4, 5), np.uint8)), "a.png: expected 4×5 pixels like the image, found 5×4"),
    (encoded(np.zeros((5, 4, 3), np.uint8)), "a.png: expected a grey saliency map of 8 or 16 bits, found mode RGB"),
    (encoded(np.zeros((5, 4), np.uint8))[:40], "a.png: expected a saliency map as PNG or JPEG"),
    (b"not an image", "a.png: expected a saliency map as PNG or JPEG"),
    (b"", "a.png: expected a saliency map as PNG or JPEG")])
def test_a_map_of_another_size_or_kind_is_refused_by_name(data, message):
    with pytest.raises(AepslError, match=message):
        load_map(data, size=(4, 5), name="a.png")


@pytest.mark.parametrize("packed", [True, False])
def test_maps_are_found_in_a_folder_or_a_zip_and_missing_ones_are_listed(tmp_path, packed):
    files = {"2007_000032.png": b"1", "a.b.jpg": b"2", "x y.PNG": b"3", "notes.txt": b"", ".hidden.png": b""}
    if packed:
        path = tmp_path / "maps.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(f"maps/{name}", data)
    else:
        path = tmp_path
        for name, data in files.items():
            (path / name).write_bytes(data)
    maps = pickle.loads(pickle.dumps(user_maps(path)))  # as workers get it
    assert {identifier: load() for identifier, load in maps.items()} == {"2007_000032": b"1", "a.b": b"2", "x y": b"3"}
    assert missing_maps(path, ["z", "a.b", "2007_000032", "b"]) == ["z", "b"]


def test_two_maps_of_one_image_are_refused(tmp_path):
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(AepslError, match=r"expected one map per image, found a\.jpg and a\.png"):
        user_maps(tmp_path)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(AepslError, match=r"nowhere: expected a folder or a zip"):
        user_maps(tmp_path / "nowhere")


def test_a_flipped_bit_in_a_map_is_found_and_other_formats_are_not_tried():
    damaged = bytearray(encoded(np.zeros((5, 4), np.uint8)))
    damaged[-20] ^= 1
    for data in (bytes(damaged), encoded(np.zeros((5, 4), np.uint8), "TIFF"), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n"):
        with pytest.raises(AepslError, match=r"a\.png: expected a saliency map as PNG or JPEG, found .+; replace the file"):
            load_map(data, size=(4, 5), name="a.png")


def test_a_folder_inside_a_zip_is_no_map(tmp_path):
    with zipfile.ZipFile(tmp_path / "maps.zip", "w") as archive:
        archive.writestr("a.png/", b"")
        archive.writestr("a.png/b.png", b"1")
    assert list(user_maps(tmp_path / "maps.zip")) == ["b"]


def test_a_photograph_decoded_smaller_gives_the_map_of_the_whole_one():
    image, inside = disc(400, 600, (200, 300), 110)
    data = encoded(image, "JPEG")
    options = {"size": 100, "superpixel": 40, "compactness": 10.0}
    part, full = decode_reduced(data, working_scale((600, 400), 100))
    assert part.shape == (100, 150, 3)
    found, expected = saliency(part, full=full, **options), saliency(decode_reduced(data, 1)[0], **options)
    assert found.shape == expected.shape == (400, 600)
    assert abs(found - expected).mean() < 0.03
    assert found[inside].mean() > 0.8
