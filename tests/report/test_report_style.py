"""The report's colours and text without a browser: contrast in both themes, nothing that its policy forbids, equal facts give equal bytes."""

import math
import re
from pathlib import Path

import pytest

from aepsl.report.charts import apart, line_chart, thinned, ticks
from aepsl.report.page import HERE, confusion, groups, render, write_page, written
from benchmarks.report_data import gallery_of, overview_of

CSS = (HERE / "assets/report.css").read_text()
Colour = tuple[float, float, float]


def variables(theme: int) -> dict[str, Colour]:
    """Colours of the stylesheet by name, of the light theme, 0, or the dark one, 1."""
    return {name: rgb(pair.split(",")[theme]) for name, pair in re.findall(r"--([\w-]+): light-dark\(([^)]+)\)", CSS)}


def rgb(text: str) -> Colour:
    digits = text.strip().removeprefix("#")
    return int(digits[:2], 16) / 255, int(digits[2:4], 16) / 255, int(digits[4:], 16) / 255


def contrast(one: Colour, other: Colour) -> float:
    """That of WCAG 2: 1 to 21."""
    def luminance(colour: Colour) -> float:
        return sum(weight * (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
                   for weight, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    return tuple(share * left + (1 - share) * right for left, right in zip(one, other, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_are_readable_in_both_themes(theme: int) -> None:
    colours = variables(theme)
    series = [f"series-{number}" for number in range(1, 7)]
    for ground in ("paper", "surface", "raised"):
        for text in ("ink", "muted", "accent"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for line in ("edge", "focus", *series):
            assert contrast(colours[line], colours[ground]) >= 3, (line, ground)
    for name in series:  # the names at the ends of lines are text
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    assert contrast(colours["ink"], colours["notice"]) >= 4.5
    assert contrast(rgb("#171a1f"), rgb("#ffffff")) == pytest.approx(17.4, abs=0.3)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_numbers_are_readable_on_every_shade_of_the_confusion_matrix(theme: int) -> None:
    colours = variables(theme)
    shades = [int(share) / 100 for share in re.findall(r"\.h\d+ \{ --share: (\d+)%", CSS)]
    assert len(shades) == 10
    assert shades == sorted(shades)
    for fill in ("heat", "hit"):
        for share in (0, *shades):
            assert contrast(colours["ink"], mixed(colours[fill], colours["surface"], share)) >= 4.5, (fill, share)


def test_lines_of_a_chart_differ_by_dashes_too() -> None:
    dashes = re.findall(r"\.series-\d \{ --series: [^;]+; --dash: ([^;]+);", CSS)
    assert len(dashes) == len(set(dashes)) == 6


def test_the_page_holds_no_script_style_or_handler_of_its_own_and_asks_nobody() -> None:
    text = render(overview_of(), gallery_of(30))
    assert not re.search(r"<script(?! (defer )?src=)|<style|\sstyle=|\son\w+=", text)
    assert not re.search(r"https?://(?!www\.w3\.org)", text + "".join(path.read_text() for path in (HERE / "assets").iterdir()))
    for path in (HERE / "assets").glob("*.js"):
        risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|fetch\(|XMLHttpRequest"
        assert not re.search(risky, path.read_text()), path


def test_the_policy_of_the_page_allows_its_own_files_alone() -> None:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', render(overview_of(), gallery_of(1)))
    assert found
    policy = dict(part.strip().split(" ", 1) for part in found[1].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert set(policy["img-src"].split()) == {"'self'", "data:"}


def test_equal_facts_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_page(tmp_path / name, overview_of(), gallery_of(30))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert {path.as_posix() for path in files} >= {"index.html", "assets/report.css", "assets/gallery.js"}
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes() for path in files)


def test_what_the_page_needs_is_packed_with_the_package() -> None:
    import tomllib

    root = HERE.parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["aepsl"]
    packed = {path for pattern in patterns for path in (root / "src/aepsl").glob(pattern)}
    assert {path for folder in ("assets", "templates") for path in (HERE / folder).iterdir()} <= packed


@pytest.mark.parametrize(("value", "style", "text"), [
    (0.48465, "share", "48.5"), (0.11448, "points", "+11.4"), (-0.02, "points", "−2.0"), (0.5636, "ratio", "0.56"), (0.101675, "loss", "0.102"),
    (617664.0, "count", "617,664"), (None, "share", "–"), ("", "", "–"), ("val 100 miss", "", "val 100 miss"), (0.853174, "", "0.85317"),
    (400, "", "400"), (math.nan, "share", "nan"), (True, "", "True")])
def test_numbers_are_written_as_a_reader_wants_them(value: object, style: str, text: str) -> None:
    assert written(value, style) == text


def test_a_confusion_matrix_is_normalised_by_rows_and_names_the_most_frequent_errors() -> None:
    found = confusion([[90, 10, 0], [30, 10, 0], [0, 0, 0]])
    assert found is not None
    assert found["shares"] == [[90, 10, 0], [75, 25, 0], [0, 0, 0]]
    assert found["levels"] == [[9, 1, 0], [8, 2, 0], [0, 0, 0]]
    assert [(pair["actual"], pair["predicted"], pair["count"]) for pair in found["worst"]] == [(1, 0, 30), (0, 1, 10)]
    assert confusion([[0, 0], [0, 0]]) is confusion(None) is None


def test_confusions_are_told_in_the_number_they_are_ordered_by() -> None:
    found = confusion(overview_of().confusion)
    assert found is not None
    text = re.sub(r"<[^>]+>", "", render(overview_of(), gallery_of(1)))
    told = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) pixels, [\d.]+ % of its own", text)]
    assert told == [pair["count"] for pair in found["worst"]] == sorted(told, reverse=True)


def test_parameters_are_grouped_by_their_first_name() -> None:
    assert groups({"seed": 1, "mine": {"rule": "x", "scales": [1.0], "further_rounds": {"threshold": None}}, "relabels": {}}) == [
        ("general", [("seed", "1"), ("relabels", "{}")]),
        ("mine", [("rule", "x"), ("scales", "[1.0]"), ("further_rounds.threshold", "null")])]


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, [0, 0.5, 1]), (0, 0.34, [0, 0.2, 0.4]), (2, 2, [2, 3, 4]), (1, 15, [0, 5, 10, 15])])
def test_ticks_are_round_and_enclose(low: float, high: float, expected: list[float]) -> None:
    found = ticks(low, high, 3 if high == 15 else 2)
    assert found == expected


def test_a_chart_places_points_within_its_axes_and_labels_apart() -> None:
    lines = {"a": [(1, 1.0), (2, 0.5)], "b": [(1, 1.0), (2, 0.5)], "c": [(1, math.nan), (2, math.inf)]}
    chart = line_chart("t", lines, x_label="epoch", y_label="loss")
    assert chart is not None
    left, top, right, bottom = chart.plot
    assert [line.name for line in chart.lines] == ["a", "b"]
    for line in chart.lines:
        points = [tuple(map(float, point.split(","))) for point in line.points.split()]
        assert all(left <= x <= right and top <= y <= bottom for x, y in points)
        assert points[-1] == line.end
    assert abs(chart.lines[0].label - chart.lines[1].label) >= 14
    assert line_chart("t", {"a": [(1, math.nan)]}, x_label="", y_label="") is None
    single = line_chart("t", {"a": [(1, 0.5)]}, x_label="", y_label="")
    assert single is not None
    assert [text for _, text in single.x_ticks] == ["1"]


def test_labels_move_apart_and_long_lines_are_thinned_to_their_end() -> None:
    assert apart([50, 52, 10], 14, 0, 100) == [50, 64, 10]
    assert apart([99, 100], 14, 0, 100) == [86, 100]
    points = [(float(x), 0.0) for x in range(1001)]
    assert len(thinned(points)) <= 402
    assert thinned(points)[-1] == points[-1]
