import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError
from aepsl.segmentation.scores import encoded_grid, encoded_scores, read_scores, read_stride


def test_scores_round_trip_in_half_precision_with_their_stride(tmp_path):
    probabilities = np.array([[[0.1, 0.9]], [[0.9, 0.1]], [[0, 0]]], np.float32)
    with ArchiveWriter(tmp_path / "scores.zip") as out:
        out.update(encoded_grid(16))
        out.update(encoded_scores("a/b.c", probabilities))
    reader = ArchiveReader(tmp_path / "scores.zip")
    found = read_scores(reader, "a/b.c")
    assert reader.names() == ["grid.json", "a/b.c.npy"]
    assert read_stride(reader) == 16
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, probabilities.astype(np.float16))
    assert not found[2].any()  # a prohibited class


@settings(max_examples=25, deadline=None)
@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.floats(0, 1, width=32)))
def test_any_probabilities_come_back_within_half_precision(tmp_path_factory, probabilities):
    path = tmp_path_factory.mktemp("scores") / "scores.zip"
    with ArchiveWriter(path) as out:
        out.update(encoded_scores("x", np.asfortranarray(probabilities)))
    np.testing.assert_allclose(read_scores(ArchiveReader(path), "x"), probabilities, rtol=1e-3, atol=1e-7)


def array_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"no array", array_of_objects()])
def test_an_entry_that_is_no_array_is_named_and_never_unpickled(tmp_path, data):
    with ArchiveWriter(tmp_path / "scores.zip") as out:
        out.add("x.npy", data)
    with pytest.raises(AepslError, match=r"scores\.zip: entry x\.npy is damaged \(.*\); run `dvc repro predict`"):
        read_scores(ArchiveReader(tmp_path / "scores.zip"), "x")


def test_a_missing_image_and_a_missing_grid_are_named(tmp_path):
    with ArchiveWriter(tmp_path / "scores.zip") as out:
        out.add("x.npy", b"")
    with pytest.raises(AepslError, match=r"expected an entry 'y\.npy'"):
        read_scores(ArchiveReader(tmp_path / "scores.zip"), "y")
    with pytest.raises(AepslError, match=r"expected an entry 'grid\.json'"):
        read_stride(ArchiveReader(tmp_path / "scores.zip"))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"stride": 0}', b'{"stride": "8"}', b'{"stride": 8.0}', b'{"stride": true}',
                                  b'{"stride": 257}', b'{"stride": 1e400}',
                                  b'{"stride": 8, "stride": 16}', b'{"strde": 1, "stride": 8}'])
def test_a_damaged_grid_is_named(tmp_path, text):
    with ArchiveWriter(tmp_path / "scores.zip") as out:
        out.add("grid.json", text)
    with pytest.raises(AepslError, match=r"scores\.zip: entry 'grid\.json'.*run `dvc repro predict`"):
        read_stride(ArchiveReader(tmp_path / "scores.zip"))


def saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, np.zeros((2, 1, 1), np.float16))
    return buffer.getvalue()


@pytest.mark.parametrize("data", [
    saved(np.zeros((2, 1, 1))), saved(np.zeros((2, 1), np.float16)), saved(np.full((2, 1, 1), np.nan, np.float16)),
    saved(np.zeros((2, 1, 1), np.float16)) + b"\0",
    saved(np.zeros((2, 1, 1), np.float16))[:-1], saved(np.zeros((2, 1, 1), np.float16)).replace(b"(2, 1, 1)", b"(2**9, 1)"), zipped(),
    saved(np.zeros((2, 1, 1), np.float16)).replace(b"(2, 1, 1), }    ", b"(9999, 9999, 9), }")],
    ids=["double", "flat", "NaN", "too much", "too little", "code", "zip", "huge"])
def test_an_array_of_another_kind_is_named(tmp_path, data):
    with ArchiveWriter(tmp_path / "scores.zip") as out:
        out.add("x.npy", data)
    with pytest.raises(AepslError, match=r"entry x\.npy is damaged \(.+\); run `dvc repro predict`"):
        read_scores(ArchiveReader(tmp_path / "scores.zip"), "x")
