"""docs/sharing.md and the tests that run its commands belong together."""

import re
from pathlib import Path


def test_every_section_with_commands_is_run_by_a_test(page) -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    run = set(re.findall(r'page\.lines\("([^"]+)"', sources))
    assert run == {heading for heading, lines in page.blocks.items() if lines}
