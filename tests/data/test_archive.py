import io
import multiprocessing
import os
import pickle
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from aepsl.data import archive as module
from aepsl.data.archive import (
    IMAGE_FAULTS,
    ArchiveReader,
    ArchiveWriter,
    decode_image,
    decode_indices,
    encode_grey,
    encode_mask,
    parse_json,
    verify_png,
    voc_palette,
    write_atomically,
)
from aepsl.errors import AepslError

CONTENT = {"b.png": b"hello", "größe/a.png": bytes(range(40)), "empty": b""}
FORK = multiprocessing.get_context("fork")


def write(path: Path, content: dict[str, bytes] = CONTENT) -> Path:
    with ArchiveWriter(path) as out:
        for name, data in content.items():
            out.add(name, data)
    return path


def test_entries_come_back_in_the_order_they_were_written(tmp_path):
    reader = ArchiveReader(write(tmp_path / "new/folder/a.zip"))
    assert reader.names() == list(reader) == list(CONTENT)
    assert {name: reader.read(name) for name in reader} == CONTENT
    assert "b.png" in reader
    assert "a.png" not in reader


def test_equal_content_gives_equal_bytes_whenever_it_is_written(tmp_path, monkeypatch):
    first = write(tmp_path / "first.zip").read_bytes()
    later = time.time() + 1e8
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(later))
    assert write(tmp_path / "other name.zip").read_bytes() == first
    assert write(tmp_path / "order.zip", dict(reversed(CONTENT.items()))).read_bytes() != first
    for info in zipfile.ZipFile(tmp_path / "first.zip").infolist():
        assert (info.date_time, info.compress_type, info.create_system) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED, 3)


def test_the_archive_appears_when_the_block_ends_and_not_before(tmp_path):
    with ArchiveWriter(tmp_path / "a.zip") as out:
        out.add("x", b"1")
        assert not (tmp_path / "a.zip").exists()
    assert os.listdir(tmp_path) == ["a.zip"]


def test_an_exception_in_the_block_leaves_nothing_behind_and_an_old_archive_alone(tmp_path):
    def fail() -> None:
        with ArchiveWriter(tmp_path / "a.zip") as out:
            out.add("x", b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == []
    before = write(tmp_path / "a.zip").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == ["a.zip"]
    assert (tmp_path / "a.zip").read_bytes() == before


def test_a_disk_that_is_full_when_the_archive_is_closed_leaves_nothing_behind(tmp_path, monkeypatch):
    class Full(zipfile.ZipFile):
        def close(self) -> None:
            writing = self.fp is not None
            super().close()
            if writing:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.zipfile, "ZipFile", Full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a.zip")
    assert os.listdir(tmp_path) == []


def killed(path: Path) -> None:
    with ArchiveWriter(path) as out:
        out.add("x", bytes(1000))
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("before", [False, True])
def test_a_kill_leaves_no_half_written_archive_under_the_final_name(tmp_path, before):
    path = tmp_path / "a.zip"
    old = write(path).read_bytes() if before else None
    process = FORK.Process(target=killed, args=(path,))
    process.start()
    process.join(600)
    assert process.exitcode == -signal.SIGKILL
    assert path.exists() == before
    assert old is None or path.read_bytes() == old
    assert all(name.startswith(".") and name.endswith(".tmp") for name in os.listdir(tmp_path) if name != "a.zip")
    assert ArchiveReader(write(path)).names() == list(CONTENT)


def test_an_entry_is_added_once(tmp_path):
    with pytest.raises(ValueError, match=r"a\.zip: entry 'x' was added twice"), ArchiveWriter(tmp_path / "a.zip") as out:
        out.add("x", b"1")
        out.add("x", b"1")
    assert os.listdir(tmp_path) == []


def test_a_missing_archive_and_a_missing_entry_are_named(tmp_path):
    with pytest.raises(AepslError, match=r"none\.zip: no such file"):
        ArchiveReader(tmp_path / "none.zip").names()
    with pytest.raises(AepslError, match=r"a\.zip: expected an entry 'a\.png', found none"):
        ArchiveReader(write(tmp_path / "a.zip")).read("a.png")


def test_a_damaged_entry_is_named(tmp_path):
    path = write(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes().replace(b"hello", b"hallo"))
    reader = ArchiveReader(path)
    with pytest.raises(AepslError, match=r"a\.zip: entry 'b\.png' is damaged"):
        reader.read("b.png")
    assert reader.read("größe/a.png") == CONTENT["größe/a.png"]


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    whole = write(tmp_path / "a.zip").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.zip").write_bytes(whole[:length])
        with pytest.raises(AepslError, match=r"cut\.zip: expected a complete zip archive"):
            ArchiveReader(tmp_path / "cut.zip").names()


def test_a_flipped_bit_is_harmless_or_an_explained_error(tmp_path):
    whole = write(tmp_path / "a.zip").read_bytes()
    path = tmp_path / "flipped.zip"
    refusals = []
    for place in range(len(whole)):
        for bit in (place % 8, (place + 3) % 8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1:])
            reader = ArchiveReader(path)
            try:
                assert {name: reader.read(name) for name in CONTENT} == CONTENT
            except AepslError as error:
                refusals.append(str(error))
    assert len(refusals) > sum(map(len, CONTENT.values())) * 2
    assert all(message.startswith(f"{path}: ") for message in refusals)


def first_byte(reader: ArchiveReader, number: int) -> int:
    return reader.read(str(number))[0]


def test_a_reader_serves_processes_forked_after_it_was_opened(tmp_path):
    reader = ArchiveReader(write(tmp_path / "a.zip", {str(number): bytes([number]) * 5000 for number in range(200)}))
    assert first_byte(reader, 7) == 7

    def child(start: int) -> None:
        os._exit(0 if all(first_byte(reader, number) == number for _ in range(3) for number in range(start, 200)) else 1)

    children = [FORK.Process(target=child, args=(start,)) for start in (0, 50)]
    for process in children:
        process.start()
    assert [first_byte(reader, number) for number in range(200)] == list(range(200))
    for process in children:
        process.join(600)
    assert [process.exitcode for process in children] == [0, 0]
    assert first_byte(reader, 199) == 199


def test_a_reader_is_pickled_without_its_open_file(tmp_path):
    reader = ArchiveReader(write(tmp_path / "a.zip"))
    reader.read("b.png")
    assert pickle.loads(pickle.dumps(reader)).read("b.png") == b"hello"


def test_small_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new/a.json"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert os.listdir(path.parent) == ["a.json"]
    assert path.read_bytes() == b"new"


def test_the_palette_is_that_of_voc():
    colours = np.array(voc_palette()).reshape(256, 3)
    assert {value: tuple(colours[value]) for value in (0, 1, 2, 3, 8, 15, 20, 255)} == {
        0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert len(np.unique(colours, axis=0)) == 256


def test_a_mask_is_an_indexed_png_of_eight_bits_that_any_viewer_shows_in_colour():
    data = encode_mask(np.array([[0, 1, 255]], np.uint8))
    assert data[24:26] == bytes([8, 3])  # IHDR: bit depth, colour type 3 = palette
    with Image.open(io.BytesIO(data)) as image:
        assert np.asarray(image.convert("RGB")).tolist() == [[[0, 0, 0], [128, 0, 0], [224, 224, 192]]]


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_masks_and_grey_maps_round_trip(values):
    for encode in (encode_mask, encode_grey):
        decoded = decode_indices(encode(values))
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, values)
        assert encode(np.asfortranarray(values)) == encode(values)


def test_every_value_round_trips():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_indices(encode_mask(values)), values)


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.zeros((2, 2), bool), np.zeros((2, 2, 3), np.uint8)])
def test_other_arrays_are_not_encoded(values):
    with pytest.raises(ValueError, match=r"expected a mask \(H, W\) uint8"):
        encode_mask(values)
    with pytest.raises(ValueError, match=r"expected an array \(H, W\) uint8"):
        encode_grey(values)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_coloured_image_is_no_mask():
    with pytest.raises(AepslError, match="found mode RGB"):
        decode_indices(saved(Image.new("RGB", (2, 1))))


@pytest.mark.parametrize(("image", "expected"), [
    (Image.new("RGB", (3, 2), (10, 20, 30)), (10, 20, 30)),
    (Image.new("RGBA", (3, 2), (10, 20, 30, 0)), (10, 20, 30)),
    (Image.new("L", (3, 2), 77), (77, 77, 77)),
    (Image.new("LA", (3, 2), (77, 5)), (77, 77, 77)),
    (Image.new("1", (3, 2), 1), (255, 255, 255)),
    (Image.new("RGB", (3, 2), (10, 20, 30)).quantize(4), (10, 20, 30)),
], ids=["RGB", "RGBA", "grey", "grey-alpha", "bits", "palette"])
def test_photographs_of_any_mode_become_rgb(image, expected):
    pixels = decode_image(saved(image))
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} == {expected}


def test_photographs_in_cmyk_and_grey_jpeg_become_rgb():
    cmyk = decode_image(saved(Image.new("CMYK", (16, 8), (255, 0, 0, 0)), "JPEG", quality=100))
    assert cmyk.shape == (8, 16, 3)
    np.testing.assert_allclose(cmyk, np.broadcast_to([0, 255, 255], cmyk.shape), atol=4)
    np.testing.assert_allclose(decode_image(saved(Image.new("L", (16, 8), 90), "JPEG")), 90, atol=2)


def test_a_name_changed_in_the_directory_is_noticed_before_any_entry_is_read(tmp_path):
    path = write(tmp_path / "a.zip")
    data = path.read_bytes()
    at = data.rindex(b"b.png")
    path.write_bytes(data[:at] + b"c" + data[at + 1:])
    with pytest.raises(AepslError, match=r"(?s)a\.zip: expected plain files.*entry 'c\.png': expected the name it was written under"):
        ArchiveReader(path).names()


@pytest.mark.parametrize("bit", [1, 2, 4])
def test_a_changed_length_of_a_name_is_noticed_too(tmp_path, bit):
    path = write(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 28] ^= bit  # of the last entry: what follows is cut short
    path.write_bytes(bytes(data))
    with pytest.raises(AepslError, match=r"a\.zip: expected "):
        ArchiveReader(path).names()


def test_an_entry_that_holds_less_than_it_says_is_damaged(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"")
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02") + 24  # the size in the directory, unpacked
    path.write_bytes(data[:at] + b"\5\0\0\0" + data[at + 4:])
    with pytest.raises(AepslError, match=r"entry 'a' is damaged \(0 bytes instead of 5\)"):
        ArchiveReader(path).read("a")


def test_a_long_name_leaves_room_for_what_is_wrong(tmp_path):
    with pytest.raises(AepslError, match=r"a\.zip: expected an entry 'x+ … \(90002 characters\), found none"):
        ArchiveReader(write(tmp_path / "a.zip")).read("x" * 90_000)


def test_images_are_named_by_their_entry(tmp_path):
    reader = ArchiveReader(write(tmp_path / "a.zip", {"x.png": b"no image", "y.png": encode_mask(np.zeros((2, 3), np.uint8))}))
    for read in (reader.mask, reader.photograph):
        with pytest.raises(AepslError, match=r"a\.zip: entry 'x\.png': expected .*, found a file of another kind or a damaged one; run `dvc repro`"):
            read("x.png")
    assert reader.mask("y.png").shape == (2, 3)
    assert reader.photograph("y.png").shape == (2, 3, 3)


def test_text_of_an_entry_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_TEXT", 4)
    reader = ArchiveReader(write(tmp_path / "a.zip"))
    assert reader.text("empty") == b""
    with pytest.raises(AepslError, match="entry 'b.png': expected at most 4 bytes of text, found 5"):
        reader.text("b.png")


def test_the_checksums_of_a_png_are_compared_and_its_end_must_be_there():
    whole = encode_mask(np.arange(12, dtype=np.uint8).reshape(3, 4))
    verify_png(whole)
    verify_png(saved(Image.new("RGB", (2, 2)), "JPEG"))  # has none
    flipped = bytearray(whole)
    flipped[-20] ^= 1
    for damaged in (bytes(flipped), whole[:-4], whole[:-13]):
        with pytest.raises(IMAGE_FAULTS):
            verify_png(damaged)


@pytest.mark.parametrize(("text", "said"), [
    (b'{"a": 1, "a": 2}', "every key once, found 'a' again"), (b"[NaN]", "expected a number, found NaN"), (b"[1e999]", "found 1e999, which is out of range"),
    (b"[", "expected JSON, found"), (b"\xff", "expected JSON, found"), (b"[" * 100_000, "nested a thousandfold")])
def test_json_is_read_strictly(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)
    assert parse_json(b'{"a": [1, 2.5, null, "\xc3\xa4"]}') == {"a": [1, 2.5, None, "ä"]}
