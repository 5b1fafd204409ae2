"""What docs/scaling.md tells people to type."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml

from aepsl.launch import command_of
from aepsl.params import Compute

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/scaling.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_every_setting_on_the_page_is_one() -> None:
    here: dict[str, Any] = yaml.safe_load((ROOT / "presets/shapes.yaml").read_text())["compute"]
    settings = [Compute(**here | yaml.safe_load(text)["compute"]) for kind, text in BLOCKS if kind == "yaml"]
    assert len(settings) == 3
    assert set(re.findall(r"`compute\.(\w+)", PAGE)) <= set(here)
    [launched] = [one for one in settings if one.launcher]
    assert (command_of(launched, "mine", ["--out", "x"]) or [])[-4:] == ["-m", "stages.mine", "--out", "x"]


def test_every_command_on_the_page_is_one_a_shell_can_read() -> None:
    for kind, text in BLOCKS:
        if kind == "bash":
            subprocess.run(["bash", "-n"], input=text, text=True, check=True)
            for line in text.splitlines():
                shlex.split(line, comments=True)


def test_the_batch_script_lets_what_is_in_progress_be_saved(tmp_path: Path) -> None:
    """The scheduler's SIGTERM comes to the script alone."""
    [script] = [text for kind, text in BLOCKS if kind == "bash" and "SBATCH" in text]
    script = re.sub(r"(?m)^(cd|source) .*\n", "", script)
    (tmp_path / "dvc").write_text("#!/bin/bash\ntrap 'sleep 0.5; echo $* > saved; exit' TERM\ntouch started\nfor i in {1..300}; do sleep 0.1; done\n")
    (tmp_path / "dvc").chmod(0o755)
    batch = subprocess.Popen(["bash"], stdin=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
                             start_new_session=True, text=True)
    assert batch.stdin is not None
    batch.stdin.write(script)
    batch.stdin.close()
    while not (tmp_path / "started").exists():
        assert batch.poll() is None
        time.sleep(0.02)
    batch.send_signal(signal.SIGTERM)
    batch.wait(20)
    assert (tmp_path / "saved").read_text() == "repro\n"
