import pytest

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError
from aepsl.mining.record import read_rounds, write_rounds

ROUNDS = [{"round": "r1", "epochs": [0.5, 1], "losses": [0.5, 0.048], "final_loss": 0.048, "mined_area": 0.25},
          {"round": "zweite", "final_loss": 1e-9, "mined_area": 0.0}]


@pytest.mark.parametrize("rounds", [[], ROUNDS[:1], ROUNDS])
def test_the_record_round_trips_oldest_round_first(tmp_path, rounds):
    with ArchiveWriter(tmp_path / "r.zip") as out:
        out.add("a/1.png", b"")
        write_rounds(out, rounds)
    assert read_rounds(ArchiveReader(tmp_path / "r.zip")) == rounds
    assert ArchiveReader(tmp_path / "r.zip").names() == ["a/1.png", "rounds.json"]


def test_an_archive_without_a_record_is_named(tmp_path):
    with ArchiveWriter(tmp_path / "r.zip") as out:
        out.add("a/1.png", b"")
    with pytest.raises(AepslError, match=r"r\.zip: expected an entry 'rounds\.json'"):
        read_rounds(ArchiveReader(tmp_path / "r.zip"))


@pytest.mark.parametrize("text", [b"", b"[", b"{}", b"[1]", b"[{}]", b'[{"round": 1}]', b'[{"round": "\\u001b[2J"}]',
                                  b'[{"round": "r1", "final_loss": "x"}]', b'[{"round": "r1", "losses": 1}]',
                                  b'[{"round": "r1", "epochs": [1], "losses": []}]', b'[{"round": "r1", "epochs": [[1]], "losses": [1]}]',
                                  b'[{"round": "r1", "final_loss": NaN}]',
                                  b'[{"round": "r1", "round": "r2"}]', b"[" + b'{"round": "r"},' * 255 + b'{"round": "r"}]'])
def test_a_damaged_record_is_named(tmp_path, text):
    with ArchiveWriter(tmp_path / "r.zip") as out:
        out.add("rounds.json", text)
    with pytest.raises(AepslError, match=r"r\.zip: entry 'rounds\.json'.*run `dvc repro mine`"):
        read_rounds(ArchiveReader(tmp_path / "r.zip"))
