"""Two checkouts on one machine that share a cache by hard links."""

import os
import stat

import pytest

from tests.conftest import commands, lock, succeed
from tests.sharing.conftest import LONG, do, object_path, objects

# One stage for each way of writing an artefact: zip, csv, json, weights, network, tar, png.
WRITERS = ("prepare", "weights", "start", "refine", "export", "gallery")


@pytest.fixture(scope="module")
def shared(author, place, page):
    """Two clones on one cache, which holds what A has."""
    cache = place / "cache"
    cache.mkdir()
    cache.chmod(0o2775)
    checkouts = []
    for name in ("first", "second"):
        do(author, [f"git clone --quiet --branch main {place}/hub.git {place}/{name}"])
        work = author.at(place / name)
        use, *rest = page.lines("One cache for several checkouts", cache=str(cache))
        do(work, [use, *rest[:-1]] if checkouts else [use, *rest[:-1], "dvc fetch"])
        do(work, [rest[-1]])
        checkouts.append(work)
    return *checkouts, cache


def artefacts(work) -> dict[str, os.stat_result]:
    """Every artefact of dvc.lock that lies in the checkout and in the cache, and what the file system says of it."""
    return {out["path"]: (work / out["path"]).stat() for stage in lock(work).values() for out in stage.get("outs", ())
            if "hash" in out and not out["path"].startswith("metrics/") and (work / out["path"]).is_file()}


def test_two_checkouts_and_their_cache_hold_one_file_between_them(shared) -> None:
    first, second, cache = shared
    mine, theirs = artefacts(first), artefacts(second)
    assert len(mine) > 15
    hashes = {out["path"]: out["md5"] for stage in lock(first).values() for out in stage.get("outs", ())}
    for path, found in mine.items():
        if found.st_size:
            assert found.st_ino == theirs[path].st_ino == object_path(cache, hashes[path]).stat().st_ino, path
            assert not found.st_mode & 0o222, path  # nobody but root can write into it
    folders = [path for path in cache.rglob("*") if path.is_dir()]
    assert all(path.stat().st_mode & (stat.S_ISGID | stat.S_IWGRP) == stat.S_ISGID | stat.S_IWGRP for path in folders)


def test_a_change_in_one_checkout_leaves_the_other_and_the_cache_alone(shared) -> None:
    first, second, cache = shared
    before = {path: (first / path).read_bytes() for path in artefacts(first)}
    held, linked = objects(cache), artefacts(second)
    second.set({"refine.custom.bilateral_weight": 8.0})
    # Without DVC, which would delete the old artefact first: a stage replaces the link, it does not write through it.
    written = commands(second) if LONG else commands(second, *WRITERS)
    succeed(second.stages(written))
    for path in {out["path"] for stage in lock(second).values() if stage["cmd"] in written for out in stage.get("outs", ())} & set(linked):
        assert (second / path).stat().st_ino != linked[path].st_ino, path
    assert (second / "data/predictions.zip").read_bytes() != before["data/predictions.zip"]
    assert {path: (first / path).read_bytes() for path in before} == before
    assert objects(cache) == held  # which looks into each of them

    do(second, ["dvc repro refine" if LONG else "dvc commit --force refine"])
    assert set(objects(cache)) - set(held) == {out["md5"] for out in lock(second)["refine"]["outs"]}
    assert {path: (first / path).read_bytes() for path in before} == before


def test_collecting_garbage_keeps_what_the_named_projects_need(shared) -> None:
    first, second, cache = shared
    needed = {out["md5"] for stage in lock(first).values() for out in stage.get("outs", ()) if "hash" in out and not out["md5"].endswith(".dir")}
    held = needed & set(objects(cache))
    assert len(held) > 15
    do(second, ["git checkout --quiet --force .", f"dvc gc --workspace --force --projects {first.folder}"])
    assert needed & set(objects(cache)) == held
    do(first, ["dvc checkout --force"])
