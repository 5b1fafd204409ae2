"""Fuzzing: inputs made by hypothesis, the one property that all of them must have, and the counts.

For every input a reader either explains what it refuses (an ``AepslError`` that names the file or key) or reads what is there. Any other exception,
a hang, a crash of the interpreter, or a wrong file that is taken for a right one fails the test.
"""

import faulthandler
import json
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from aepsl.errors import AepslError
from tests.faults.reliability import record

LONG = os.environ.get("AEPSL_FAULTS") == "long"
SECONDS = 30  # that one input may take, on however slow a machine; most take a millisecond
FORK = multiprocessing.get_context("fork")


class Hang(BaseException):
    """Raised in the middle of what takes too long; no ``except Exception`` swallows it."""


@contextmanager
def watchdog():
    """End what takes longer than an input may: by an exception or, where C code never returns to the interpreter, with the process."""
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {SECONDS} seconds, in\n{''.join(traceback.format_stack(frame)[-6:])}")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(4 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def require_sense(message: str, names: Sequence[str]) -> None:
    """A message that helps: says where, what was expected or found, and can be printed."""
    assert any(name in message for name in names), f"none of {names} is named in: {message}"
    for line in message.split("\n"):
        assert line.isprintable(), f"not printable: {line!r}"
        assert len(line) < 2500, f"a line of {len(line)} characters: {line[:300]}"
    assert re.search(r"expected .*found |expected |no such file|is damaged|missing|unknown parameter|should |is listed|has no training image|not in "
                     r"data\.classes|listed|fit|too;|again|is a reserved|is named|has an earlier line|no miou|no line of a table|no training",
                     message), message
    assert not re.search(r" at 0x[0-9a-f]{6}|Traceback|<class '|<function|\(\);|\(None\)|found ;", message), f"no sense in: {message}"


def fuzz(target: str, inputs: st.SearchStrategy[Any], judge: Callable[[Any], bool], *, names: Sequence[str], short: int, long: int,
         isolated: Path | None = None) -> dict[str, int]:
    """Give many inputs to ``judge`` and return how many were tried, explained and accepted.

    Parameters
    ----------
    judge : reads an input; True where it was read and is what it should be, an explained error where it was refused.
    names : what an explanation must name, one of them.
    isolated : a folder; the inputs are tried in a process of their own, which may crash without taking the tests along.
    """
    counts = {"tried": 0, "explained": 0, "accepted": 0}

    @settings(max_examples=long if LONG else short, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False)
    @given(inputs)
    def campaign(given_input: Any) -> None:
        counts["tried"] += 1
        if isolated is not None:
            (isolated / "last.input").write_bytes(given_input if isinstance(given_input, bytes) else repr(given_input).encode())
        with watchdog():
            try:
                accepted = judge(given_input)
            except AepslError as error:
                require_sense(str(error), names)
                counts["explained"] += 1
                return
        assert accepted, "accepted, and is not what it should be"
        counts["accepted"] += 1

    if isolated is None:
        campaign()
    else:
        counts |= in_child(campaign, counts, isolated)
    assert counts["tried"] == counts["explained"] + counts["accepted"] >= short // 2
    if LONG:
        record("fuzz_targets", {target: counts}, totals="fuzz")
    return counts


def in_child(campaign: Callable[[], None], counts: dict[str, int], folder: Path) -> dict[str, int]:
    """Run a campaign in a child; its counts, or a failure that tells with which input it died."""
    def work() -> None:
        try:
            campaign()
            (folder / "result.json").write_text(json.dumps(counts))
        except BaseException:
            (folder / "failure.txt").write_text(traceback.format_exc())
            raise

    child = FORK.Process(target=work)
    child.start()
    child.join()
    if (folder / "failure.txt").exists():
        pytest.fail((folder / "failure.txt").read_text())
    if child.exitcode:
        pytest.fail(f"the process ended with {child.exitcode} (below 0: by that signal) on the input kept in {folder / 'last.input'}")
    result: dict[str, int] = json.loads((folder / "result.json").read_text())
    return result


# ---- inputs

TOKENS = [token.encode("utf-8", "surrogatepass") for token in (
    "\0", "\ufeff", "\r\n", "\r", "\n", "\t", " ", "\ud800", "\udcff", "\x1b[2J", "\x07", "\x85", "\u2028", "\u202e", "\u0301" * 9, "🐈", "é", "Ａ",
    "9" * 400, "-1", "1e999", "1e-999", "NaN", "Infinity", "0x10", "010", "1:30", "1_0", "٣", "true", "null", "~", "yes", "''", '"', "'", ",", ";",
    "|", "<", ">", "&",
    "&a ", "*a", "<<: *a", "%", "=1+1", "@x", "../../x", "/etc/passwd", "CON", "..", "[", "]", "{", "}", ": ", "- ", "? ", "#", "--- ", "...\n",
    "!!python/object/apply:os.abort []", "!!python/name:os.abort", "!!binary aGk=", "!!set {a}", "&amp;", "&#0;", "&x;", "<![CDATA[", "]]>", "<!-- ",
    "<?xml ?>",
    "<!DOCTYPE a [<!ENTITY x 'y'>]>", "<b>", "</object>", "__proto__", "a" * 300, "[" * 3000, "{" * 400, "<a>" * 5000, "(" * 500, "a," * 2000,
    "a: " * 60,
)] + [b"\xff", b"\xc3(", b"\xff\xfe", b"\x80\x04", b"PK\x05\x06", b"PK\x01\x02", b"\x89PNG\r\n", b"\xff\xd8\xff", b"IEND", b"IDAT", b"\x00" * 64,
      b"\xff" * 64]


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes], tokens: Sequence[bytes] = TOKENS) -> bytes:
    """A valid file with some bytes changed, cut off, put in, copied, moved or taken from another one; or as it was."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "byte", "cut", "token", "token", "delete", "repeat", "splice", "fill", "line"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.sampled_from([0, 1, 0x20, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "token":
            data[at:at + draw(st.sampled_from([0, 0, 1, 3]))] = draw(st.sampled_from(tokens))
        elif kind == "delete":
            del data[at:at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            data[at:at] = data[at:at + draw(st.integers(1, 60))] * draw(st.integers(1, 4))
        elif kind == "splice":
            other = draw(st.sampled_from(samples))
            begin = draw(st.integers(0, len(other)))
            data[at:at + draw(st.integers(0, 30))] = other[begin:begin + draw(st.integers(1, 60))]
        elif kind == "fill":
            data[at:at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\1\0"]))
        elif kind == "line":
            start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
            data[start:start] = data[start:end + 1 if end >= 0 else len(data)]
    return bytes(data)


TEXTS = st.text(max_size=12) | st.sampled_from([token.decode("utf-8", "surrogatepass") for token in TOKENS[:60]])
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 255, 256, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, -0.0])
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below,
    max_size=3), max_leaves=6)


def paths_of(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in nested groups and lists."""
    below = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(path for key, value in below for path in paths_of(value, (*above, key)))]


@st.composite
def altered(draw: st.DrawFn, content: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """Nested groups and lists with some values replaced, taken out or put in."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(paths_of(content)))
        if not path:
            if draw(st.integers(0, 19)) == 0:
                content = draw(values)
            continue
        group = content
        for key in path[:-1]:
            group = group[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if what == "replace":
            group[path[-1]] = draw(values)
        elif what == "remove":
            del group[path[-1]]
        elif isinstance(group, dict):
            group[draw(TEXTS)] = draw(values)
        else:
            group.insert(0, draw(values))
    return content
