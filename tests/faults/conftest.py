"""Fixtures of the fault tests: a process that runs stages without importing torch anew, and a finished pipeline to put under faults."""

import os
import sys

import pytest

from tests.faults.bench import SMALL, Bench
from tests.faults.warm import Warm


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("processes are watched through /proc, which only Linux has")
    server = Warm(tmp_path_factory.mktemp("output"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def bench(checkout, warm, tmp_path_factory) -> Bench:
    """The finished pipeline. A test resets the stage it wants, so that none sees what another left."""
    bench = Bench(checkout(SMALL), warm, tmp_path_factory.mktemp("store"))
    bench.make(without=() if os.environ.get("AEPSL_FAULTS") == "long" else ("stop", "package", "rounds", "oracle", "gallery", "report"))
    return bench
