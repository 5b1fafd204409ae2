"""Real stages by several processes: on one machine, and as two machines see it, each with a torchrun of its own."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError
from aepsl.launch import command_of
from aepsl.networks.tensors import load_tensors
from aepsl.params import Compute
from tests.conftest import TINY, commands

torch = pytest.importorskip("torch")
# Runs every stage in a group of two forked processes, as torchrun would start them; the imports are paid for once.
GROUPS = """
import json, os, runpy, socket, sys
import torch, lightning_fabric, torch.distributed
for arguments in json.load(sys.stdin):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        children.append(os.fork())
        if not children[-1]:
            os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                           "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            sys.argv = arguments
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            sys.exit(0)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, arguments
"""


def compute(**changes: Any) -> Compute:
    return Compute(**TINY["compute"] | changes)


def test_the_command_that_starts_several_processes() -> None:
    options = ["--out", "a b"]
    assert command_of(compute(), "mine", options) is None
    assert command_of(compute(devices=0), "mine", options) is None  # on a processor
    started = command_of(compute(devices=3), "mine", options) or []
    assert started[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert started[-6:] == ["--nproc-per-node", "3", "-m", "stages.mine", *options]
    launched = command_of(compute(launcher="/opt/bin/torchrun --nnodes=2 --rdzv-id 'a b'"), "mine", options)
    assert launched == ["/opt/bin/torchrun", "--nnodes=2", "--rdzv-id", "a b", "-m", "stages.mine", *options]
    launched = command_of(compute(launcher="srun --nodes=2 --ntasks-per-node=8", devices=4), "mine", options)
    assert launched == ["srun", "--nodes=2", "--ntasks-per-node=8", sys.executable, "-m", "stages.mine", *options]
    with pytest.raises(AepslError, match=r"compute\.launcher: expected a command, found .* mend its quotes"):
        command_of(compute(launcher="srun 'x"), "mine", options)


def test_what_networks_find_in_images_has_the_same_bytes_by_two_processes(finished: Any, tmp_path: Path) -> None:
    work = finished.copy(tmp_path / "checkout")
    names = {"mine@r2": "data/mined/r2.zip", "relabel@s2": "data/labels/s2.zip", "predict": "data/scores.zip"}
    for path in names.values():
        (work / path).unlink()
    stages = [command.split()[2:] for command in commands(finished, *names)]
    result = work.call(sys.executable, "-c", GROUPS, text=json.dumps(stages))
    assert result.returncode == 0, result.stderr
    for path in names.values():
        assert (work / path).read_bytes() == (finished / path).read_bytes(), path
    assert not list((work / "scratch/state").iterdir())


def test_two_machines_train_the_network_that_one_process_trains(finished: Any, tmp_path: Path) -> None:
    work = finished.copy(tmp_path / "checkout")
    [command] = commands(finished, "classify@r2")
    model = work / "models/classifier/r2.pt"
    model.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = [subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", "1",
                                "--master-addr", "127.0.0.1", "--master-port", str(port), *command.split()[1:]],
                               cwd=work.folder, env=work.environment(), stderr=subprocess.PIPE, text=True) for node in range(2)]
    said = [agent.communicate(timeout=1800)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    expected, found = (load_tensors(checkout / "models/classifier/r2.pt")["state"] for checkout in (finished, work))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def processes_in(folder: Path) -> list[int]:
    """Living processes whose working directory is the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(entry / "cwd")) == folder and " Z " not in (entry / "stat").read_text():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_fault_of_one_process_ends_all_in_one_explained_message(finished: Any, tmp_path: Path) -> None:
    work = finished.copy(tmp_path / "checkout")
    whole = ArchiveReader(work / "data/labels/s1.zip")
    names = list(whole)
    with ArchiveWriter(tmp_path / "damaged.zip") as damaged:
        for name in names:
            damaged.add(name, whole.read(name) if name != names[2] else b"no picture")
    (tmp_path / "damaged.zip").rename(work / "data/labels/s1.zip")
    [command] = commands(finished, "segment@s1")
    model = work / "models/segmenter/s1.pt"
    model.unlink()
    work.set({"compute.devices": 2, "segment.training.length": 3.0})
    result = work.call(*command.split())
    assert result.returncode == 1
    said = rf"\s*segment@s1: data/labels/s1\.zip: entry '{names[2]}': expected a palette or grey PNG of 8 bits.*\s*"
    assert re.fullmatch(said, result.stderr), result.stderr
    assert not model.exists()
    end = time.monotonic() + 300
    while processes_in(work.folder):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not [path for path in (work / "scratch").glob("*") if path.name.startswith("group")]
