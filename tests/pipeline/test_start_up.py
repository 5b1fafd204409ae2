"""What a stage imports before it begins: each is a process of its own, so an import that it does not need is paid for every time."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
# Those that run a network or the CRF, or write tensors.
WITH_TORCH = {"weights", "classify", "mine", "segment", "relabel", "predict", "refine", "package", "oracle"}
IMPORTED = """
import importlib, json, sys
found = {}
for stage in sys.argv[1:]:
    importlib.import_module(f"stages.{stage}")
    found[stage] = [name for name in ("torch", "torchvision", "dvc") if name in sys.modules]
print(json.dumps(found))
"""


def imported(*stages: str) -> dict[str, list[str]]:
    """Large packages that a fresh process has after importing the stages, one after the other."""
    result = subprocess.run([sys.executable, "-c", IMPORTED, *stages], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, list[str]] = json.loads(result.stdout)
    return found


def test_stages_without_a_network_start_without_torch() -> None:
    stages = [stage for stage in STAGES if stage not in WITH_TORCH]
    assert {"start", "saliency", "stop", "merge", "rounds", "gallery", "report", "export", "oracle_labels"} <= set(stages)
    assert imported(*stages) == {stage: [] for stage in stages}
