"""The audit without network: which versions an advisory concerns, and that nothing it cannot read passes for sound."""

import json
import zipfile

import pytest

from tools.audit import concerns, main

HASH = f"--hash=sha256:{'0' * 64}"


def affected(*events: dict[str, str], kind: str = "ECOSYSTEM", **more: list[str]) -> dict[str, object]:
    return {"package": {"ecosystem": "PyPI", "name": "some-package"}, "ranges": [{"type": kind, "events": list(events)}] if events else [], **more}


def advisory(identifier: str, *parts: dict[str, object], **more: object) -> dict[str, object]:
    return {"id": identifier, "modified": "2026-01-02T03:04:05Z", "details": "It\nbreaks.", "affected": list(parts), **more}


@pytest.fixture
def audit(tmp_path, capsys):
    """``audit(advisories, *words)``: exit status and output of an audit of some-package 1.10 and other 2.0."""
    def run(advisories: list[dict[str, object]], *words: str) -> tuple[int, str]:
        lock, database = tmp_path / "some.lock", tmp_path / "all.zip"
        lock.write_text(f"some-package==1.10 {HASH}\nother==2.0 {HASH}\n")
        with zipfile.ZipFile(database, "w") as archive:
            for entry in advisories:
                archive.writestr(f"{entry['id']}.json", json.dumps(entry))
        status = main([str(database), str(lock), *words])
        return status, "".join(capsys.readouterr())
    return run


@pytest.mark.parametrize(("events", "yes", "no"), [
    ([{"introduced": "0"}, {"fixed": "1.10"}], ["0.1", "1.9", "1.10rc1"], ["1.10", "1.10.1", "2"]),
    ([{"introduced": "1.2"}, {"last_affected": "1.10"}], ["1.2", "1.10", "1.3"], ["1.1", "1.11"]),
    ([{"introduced": "1"}, {"fixed": "2"}, {"introduced": "3"}, {"fixed": "3.5"}], ["1.5", "3.4"], ["0.9", "2.0", "2.9", "3.5"]),
    ([{"fixed": "3.5"}, {"introduced": "3"}, {"fixed": "2"}, {"introduced": "1"}], ["1.5", "3.4"], ["0.9", "2.0", "2.9", "3.5"]),
    ([{"introduced": "0"}], ["0.1", "99"], []),
    ([{"fixed": "2"}], ["1"], ["2"]),
    ([{"introduced": "not a version"}], ["1", "2"], [])])
def test_bounds_are_compared_as_versions(events, yes, no):
    assert [version for version in yes if not concerns(affected(*events), version)] == []
    assert [version for version in no if concerns(affected(*events), version)] == []


def test_listed_versions_count_and_commits_do_not():
    commits = {"introduced": "0"}, {"fixed": "1fe1bb49c452b0318cad12ea9d97c3bef188e9a7"}
    assert concerns(affected(*commits, kind="GIT", versions=["1.9", "1.10"]), "1.10")
    assert not concerns(affected(*commits, kind="GIT", versions=["1.9"]), "1.10")
    assert concerns(affected(*commits, kind="GIT"), "1.10"), "an advisory that states no versions may concern all"


def test_what_concerns_a_locked_version_is_listed_once_with_the_way_out(audit):
    status, output = audit([advisory("PYSEC-1", affected({"introduced": "0"}, {"fixed": "1.11"}), aliases=["CVE-1"]),
                            advisory("GHSA-1", affected({"introduced": "0"}, {"fixed": "1.11"}), aliases=["CVE-1"]),
                            advisory("PYSEC-2", affected({"introduced": "0"}, {"fixed": "1.10"}))])
    assert status == 1
    assert output.count("some-package 1.10") == 1
    assert "some.lock: some-package 1.10: PYSEC-1, CVE-1: It breaks.; fixed in 1.11" in output
    assert "3 advisories, the newest of 2026-01-02" in output
    assert "make lock" in output


def test_names_match_however_they_are_spelt(audit):
    part = affected({"introduced": "0"}) | {"package": {"ecosystem": "PyPI", "name": "Some_Package"}}
    assert audit([advisory("PYSEC-1", part)])[0] == 1


@pytest.mark.parametrize("harmless", [
    advisory("PYSEC-1", affected({"introduced": "0"}, {"fixed": "1.10"})),
    advisory("PYSEC-1", affected({"introduced": "0"}) | {"package": {"ecosystem": "npm", "name": "some-package"}}),
    advisory("PYSEC-1", affected({"introduced": "0"}) | {"package": {"ecosystem": "PyPI", "name": "some"}})])
def test_an_advisory_on_something_else_does_not_count(audit, harmless):
    assert audit([harmless]) == (0, "2 locked packages: no known vulnerability (1 advisories, the newest of 2026-01-02)\n")


def test_withdrawn_and_ignored_ones_do_not_count(audit):
    part = affected({"introduced": "0"})
    assert audit([advisory("PYSEC-1", part, withdrawn="2026-01-03T00:00:00Z"), advisory("PYSEC-2", affected({"introduced": "2"}))])[0] == 0
    both = [advisory("PYSEC-1", part, aliases=["CVE-1"]), advisory("PYSEC-2", part)]
    status, output = audit(both, "--ignore", "CVE-1")
    assert status == 1
    assert "PYSEC-1" not in output
    assert audit(both, "--ignore", "CVE-1", "--ignore", "PYSEC-2")[0] == 0


def test_an_empty_or_unreadable_database_is_no_all_clear(audit, tmp_path, capsys):
    status, output = audit([])
    assert status == 1
    assert "found no advisory" in output
    for name, content in (("missing.zip", None), ("text.zip", b"<html>not found</html>")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert main([str(tmp_path / name), str(tmp_path / "some.lock")]) == 1
        assert "expected a zip or a folder of advisories" in capsys.readouterr().err


def test_a_folder_of_yaml_advisories_serves_too(audit, tmp_path, capsys):
    audit([])
    (tmp_path / "vulns/some-package").mkdir(parents=True)
    (tmp_path / "vulns/some-package/PYSEC-1.yaml").write_text(
        "id: PYSEC-1\nmodified: 2026-01-02T03:04:05Z\ndetails: It breaks.\naffected:\n- package: {ecosystem: PyPI, name: some-package}\n"
        "  ranges:\n  - type: ECOSYSTEM\n    events:\n    - introduced: 1.2\n    - fixed: 1.20\n")
    assert main([str(tmp_path / "vulns"), str(tmp_path / "some.lock")]) == 1
    assert "fixed in 1.20" in capsys.readouterr().err, "1.20 is text, not the number 1.2"
    (tmp_path / "vulns/some-package/PYSEC-1.yaml").write_text("id: [")
    assert main([str(tmp_path / "vulns"), str(tmp_path / "some.lock")]) == 1
    assert "PYSEC-1.yaml" in capsys.readouterr().err
