"""The work of processors on a Dask cluster: a real scheduler and two real workers on loopback."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aepsl import parallel
from aepsl.errors import AepslError
from aepsl.parallel import cluster, code_of, in_processes

ROOT = Path(__file__).resolve().parents[1]
REFINE = ("images", "data/images.zip"), ("index", "data/index.csv"), ("scores", "data/scores.zip"), ("out", "data/predictions.zip")
distributed = pytest.importorskip("distributed")


def await_lines(log: Path, said: str, times: int) -> list[str]:
    """What a pattern finds in a log that is being written, once it is there so many times; a last line without its end does not count."""
    end = time.monotonic() + 300
    while len(found := re.findall(said, log.read_text().rpartition("\n")[0], re.MULTILINE)) < times:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return found


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Callable[..., tuple[str, list[subprocess.Popen[bytes]]]]]:
    """``dask(folder, workers=2)``: the address of a scheduler whose workers run in ``folder``, and the workers."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, workers: int = 2) -> tuple[str, list[subprocess.Popen[bytes]]]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
        log = tmp_path / "scheduler.log"

        def launch(*words: str) -> subprocess.Popen[bytes]:
            with log.open("ab") as said:
                started.append(subprocess.Popen([sys.executable, "-m", "distributed.cli." + words[0], *words[1:]], cwd=folder, env=environment,
                                                stdout=said, stderr=said, start_new_session=True))
            return started[-1]

        launch("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        [address] = await_lines(log, r"Scheduler at: +(tcp://127\.0\.0\.1:\d+)$", 1)
        launched = [launch("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
                    for _ in range(workers)]
        await_lines(log, "Register worker", workers)  # else who uses them waits for the first no longer than PATIENCE
        return address, launched

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_stage_on_a_cluster_writes_the_bytes_it_writes_here_even_if_a_worker_dies(
        finished: Any, dask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = finished.copy(tmp_path / "checkout")
    expected = (work / "data/predictions.zip").read_bytes()
    (work / "data/predictions.zip").unlink()
    address, workers = dask(work.folder)
    work.set({"compute.scheduler": address})
    result = work.stage("refine", **dict(REFINE))
    assert result.returncode == 0, result.stderr
    assert (work / "data/predictions.zip").read_bytes() == expected

    # In this process, where the moment of a worker's death can be chosen.
    def square_slowly(number: int) -> tuple[int, int]:
        time.sleep(0.01)
        return number * number, os.getpid()

    seen: set[int] = set()
    with cluster(address, work.folder):
        for number, (square, process) in enumerate(in_processes(square_slowly, range(150))):
            assert square == number * number
            seen.add(process)
            if number == 20:
                os.killpg(workers[0].pid, signal.SIGKILL)
    assert seen <= {worker.pid for worker in workers}
    assert workers[1].pid in seen
    assert list(in_processes(abs, [-1], processes=1)) == [1]  # afterwards as ever

    with pytest.raises(AepslError, match=r"lacks a module of this project .* in this checkout and its"), cluster(address, work.folder):
        list(in_processes(code_of_this_test_alone, [1]))

    # Workers hold the modules they have imported.
    (work / "src/aepsl/errors.py").write_text((work / "src/aepsl/errors.py").read_text() + "\n")
    with pytest.raises(AepslError, match=r"runs other code than .* holds now; restart the workers"), cluster(address, work.folder):
        list(in_processes(abs, [-1]))

    os.killpg(workers[1].pid, signal.SIGKILL)
    await_lines(tmp_path / "scheduler.log", "Remove worker", 2)
    # Impatient for workers alone: to connect takes a busy machine its time.
    wait_for_workers = distributed.Client.wait_for_workers
    monkeypatch.setattr(distributed.Client, "wait_for_workers", lambda client, count, timeout: wait_for_workers(client, count, timeout=0.5))
    with pytest.raises(AepslError, match=rf"the scheduler at {address} has no workers after {parallel.PATIENCE} s; .* `dask worker {address}`"), \
            cluster(address, work.folder):
        list(in_processes(abs, [-1]))


def code_of_this_test_alone(number: int) -> int:
    return number


def test_a_scheduler_that_does_not_answer_is_an_explained_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE", 0.5)
    with pytest.raises(AepslError, match=r"compute\.scheduler: no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*empty the parameter"), \
            cluster("tcp://127.0.0.1:9", ROOT):
        list(in_processes(abs, [-1]))


def test_workers_that_do_not_see_the_checkout_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AepslError, match=r"does not see .*/nowhere \(No such file or directory\); workers need the checkout and its data"):
        parallel._there(str(tmp_path / "nowhere"), "", abs, [1])


def test_code_is_told_apart_by_its_content_and_place(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("a")
    first = code_of(str(tmp_path))
    (tmp_path / "src/a.py").write_text("b")
    assert code_of(str(tmp_path)) != first
