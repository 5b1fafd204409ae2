"""The report's page in a real browser: what it shows, filters, sorts, opens and links, by mouse, keyboard and thumb."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aepsl.report.facts import Gallery, Overview
from benchmarks.__main__ import run
from benchmarks.harness import rows_in
from benchmarks.report_data import VOC, gallery_of, overview_of, write_report

Visit = Callable[..., Any]
GALLERY = gallery_of(100)
SMALL = (64, 48)
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 1}


def ids(page: Any) -> list[str]:
    """Of the cards, in their order."""
    found: list[str] = page.locator(".card h2").all_text_contents()
    return found


def shown(page: Any) -> str:
    text: str = page.locator("#count").text_content()
    return text


def until(page: Any, condition: str, seconds: float = 60) -> None:
    """Wait until a JavaScript expression holds. Playwright's own way evaluates within the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(15)


def loaded(page: Any) -> None:
    """Wait until the first card's pictures are painted."""
    until(page, "(() => { const images = [...document.querySelector('.card').querySelectorAll('img')]; "
                "return images.length > 0 && images.every((image) => image.complete && image.naturalWidth); })()")


def full_view(page: Any) -> Any:
    """The full view, once its picture is there."""
    page.wait_for_selector("#viewer[open] .sheet img")
    return page.locator("#viewer")


def escape(page: Any) -> None:
    """Close the full view by its key, and wait until the page has heard of it, which the browser tells with the next frame it draws."""
    page.keyboard.press("Escape")
    until(page, "!gallery.state.image")


# ---- overview

def test_the_overview_shows_scores_tables_and_curves(visit: Visit, report: Path) -> None:
    page = visit(report)
    tile = page.locator(".tile").first.text_content()
    assert re.search(r"54\.1\s*%", tile)
    assert "52.9 to 55.3" in tile
    assert "val 1449 miss f42906bf" in page.locator("#scores").text_content()
    assert page.locator("#rounds tbody tr").count() == 3
    assert page.locator("#class-table tbody tr").count() == 21
    assert page.locator("#matrix tbody td[data-count]").count() == 21 * 21
    assert page.locator(".chart polyline").count() == 3 + 2 + 3 + 3  # rounds, passes, and the terms of both passes
    assert page.locator(".chart .line text").first.text_content() == "r1"
    assert "finer-threshold" in page.locator("#run").text_content()
    assert "2 h 44 min" in page.locator("#run").text_content()
    assert "+0.01997" in page.locator("#against").text_content()
    assert page.locator("nav a[aria-current]").text_content() == "Overview"
    assert page.title() == "54.1 % · aepsl report"
    assert page.locator("#gallery").is_hidden()


def test_the_class_table_sorts_by_any_column_and_back(visit: Visit, report: Path) -> None:
    page = visit(report)
    heading = page.locator("#class-table .sort", has_text="after CRF")

    def values() -> list[float]:
        return [float(text) for text in page.locator("#class-table tbody td:nth-child(2) .number").all_text_contents()]

    before = values()
    heading.click()
    assert values() == sorted(before, reverse=True) != before
    heading.click()
    assert values() == sorted(before)
    assert page.locator("#class-table th[aria-sort=ascending]").count() == 1
    page.locator("#class-table .sort").first.click()
    assert page.locator("#class-table tbody th").first.text_content().strip() == "aeroplane"


def test_the_confusion_matrix_tells_counts_by_pointer_and_by_arrows(visit: Visit, report: Path) -> None:
    page = visit(report)
    counts = overview_of().confusion
    assert counts is not None
    cells = page.locator("#matrix tbody td[data-count]")
    cells.nth(21 * 3 + 5).hover()
    assert page.locator("#confusion-cell").text_content() == (
        f"bird taken for bottle: {100 * counts[3][5] / sum(counts[3]):.1f} % of its pixels, {counts[3][5]:,} of {sum(counts[3]):,}")
    cells.first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#confusion-cell").text_content().startswith("bicycle recognised: ")
    assert page.locator("#matrix td[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#gallery&split=val&class=bicycle&sort=iou"
    assert page.locator(".card").count() > 0
    for row, column, address in ((2, 0, "&class=bicycle&sort=missed"), (2, 5, "&class=bicycle&sort=confused"), (0, 5, "&sort=spilled")):
        page.go_back()
        cells.nth(21 * row + column).click()
        assert page.evaluate("location.hash") == f"#gallery&split=val{address}"


def test_parameters_are_found_by_name_and_by_value(visit: Visit, report: Path) -> None:
    page = visit(report)
    assert page.locator("details.params[open]").count() == 0
    page.fill("#param-search", "mine.thre")
    assert page.locator("details.params tr:visible").all_text_contents() == ["threshold0.5"]
    page.fill("#param-search", "relu-max")
    assert page.locator("details.params tr:visible").all_text_contents() == ["rulerelu-max"]
    page.fill("#param-search", "")
    page.click("#param-toggle")
    assert page.locator("details.params[open]").count() == 4


def test_the_theme_is_chosen_and_remembered(visit: Visit, report: Path) -> None:
    page = visit(report, color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    page.click("#theme")
    dark = page.evaluate(paper)
    assert page.locator("#theme-name").text_content() == "dark"
    assert light != dark
    page.reload()
    assert page.evaluate(paper) == dark
    page.click("#theme")
    assert page.evaluate(paper) == light


# ---- gallery

def test_classes_splits_and_failures_filter(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    assert shown(page) == "100 images, 1 to 24 shown"
    page.select_option("[name=split]", "val")
    assert ids(page) == [GALLERY.ids[row] for row in range(80, 100)]
    assert shown(page) == "20 of 100 images"
    page.select_option("[name=split]", "")
    page.select_option("[name=class]", "cow")
    assert ids(page) == [GALLERY.ids[row] for row in range(100) if VOC.index("cow") + 1 in GALLERY.labels[row]]
    page.click("#filters button[type=reset]")
    page.select_option("[name=failure]", "spilled")
    page.fill("[name=least]", "90")
    page.keyboard.press("Tab")
    assert ids(page) == [GALLERY.ids[row] for row in range(100) if (GALLERY.scores["spilled"][row] or 0) >= 0.9] != []
    assert "share that is background" in page.locator("#failure-text").text_content()
    assert "at least 90 %" in page.locator("#failure-text").text_content()


def test_search_finds_parts_of_ids_and_says_when_there_are_none(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    page.fill("[name=q]", "_00009")
    until(page, "document.querySelectorAll('.card').length === 10")
    assert ids(page) == [f"2007_00009{digit}" for digit in range(10)]
    page.fill("[name=q]", "nowhere")
    until(page, "document.querySelectorAll('.card').length === 0")
    assert shown(page) == "None of 100 images is like that."


@pytest.mark.parametrize(("sort", "key", "down"), [("iou", "iou", False), ("-iou", "iou", True), ("confused", "confused", True)])
def test_images_sort_by_scores(visit: Visit, report: Path, sort: str, key: str, down: bool) -> None:
    page = visit(report, f"#gallery&sort={sort}&size=96")
    order = sorted(range(100), key=lambda row: (-1 if down else 1) * (GALLERY.scores[key][row] or 0))
    assert ids(page) == [GALLERY.ids[row] for row in order[:96]]


def test_scores_say_what_they_are_of_and_links_do_not_mix_them(visit: Visit, report: Path) -> None:
    page = visit(report)
    page.click("text=lowest IoU first")
    assert page.evaluate("location.hash") == "#gallery&split=val&sort=iou"
    assert page.locator(".scores div").first.get_attribute("title") == "IoU of the prediction"
    page.go_back()
    page.locator("#class-table tbody a").first.click()
    assert page.evaluate("location.hash") == "#gallery&split=val&class=aeroplane&sort=iou"
    for split, said in (("train", "pseudo-label"), ("val", "prediction")):
        page.evaluate(f"location.hash = '#gallery&split={split}'")
        assert page.locator(".scores div").first.get_attribute("title") == f"IoU of the {said}"
        page.locator(".card h2 a").first.click()
        full_view(page)
        assert f"IoU of the {said}" in page.locator("#viewer-facts").text_content()
        escape(page)


def test_images_without_scores_come_last_and_fail_no_threshold(visit: Visit, tmp_path: Path) -> None:
    whole = gallery_of(6, ["cat"], ids=["b10", "b9", "a", "d", "c", "e"], size=SMALL)
    scores = {key: [0.5, None, 0.1, None, 0.9, 0.3] for key in whole.scores}
    write_report(tmp_path, overview_of(["cat"]), Gallery(**{**vars(whole), "scores": scores}), sides=(32, 32), run={})
    page = visit(tmp_path, "#gallery&sort=iou")
    assert ids(page) == ["a", "e", "b10", "c", "b9", "d"]
    page.select_option("[name=sort]", "-iou")
    assert ids(page) == ["c", "b10", "e", "a", "b9", "d"]
    page.select_option("[name=sort]", "id")
    assert ids(page) == ["a", "b9", "b10", "c", "d", "e"]
    page.select_option("[name=failure]", "missed")
    assert ids(page) == ["b10", "c", "e"]


def test_every_image_has_an_alternative_text_and_classes_their_names(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    loaded(page)
    card = page.locator(".card").nth(1)
    texts = [text for text in card.locator("img").evaluate_all("(images) => images.map((image) => image.getAttribute('alt'))") if text]
    assert texts[0] == "2007_000001: photograph; aeroplane, bicycle"
    assert "2007_000001: pseudo-label; aeroplane, bicycle" in texts
    assert len(texts) == card.locator(".panel").count()
    assert [text.strip() for text in card.locator(".labels li").all_text_contents()] == ["aeroplane", "bicycle"]
    assert page.locator("img:not([alt])").count() == 0


def test_layers_can_be_left_out_and_their_opacity_set(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery&split=val")
    loaded(page)
    assert page.locator(".card").first.locator(".caption").all_text_contents() == [
        "photograph", "prediction before the CRF", "prediction", "truth", "errors of the prediction"]
    page.click("#layer-menu summary")
    page.uncheck("#layer-boxes input[value=truth]")
    assert "truth" not in page.locator(".card").first.locator(".caption").all_text_contents()
    assert "hide=truth" in page.evaluate("location.hash")
    page.fill("#opacity", "25")
    loaded(page)
    assert page.locator(".frame .layer").first.evaluate("(image) => getComputedStyle(image).opacity") == "0.25"
    assert page.locator("#opacity-value").text_content() == "25 %"


def test_pages_turn_by_button_number_and_key(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery&size=12")
    assert len(ids(page)) == 12
    page.locator("[aria-label='Page after']").first.click()
    assert ids(page)[0] == "2007_000012"
    page.keyboard.press("]")
    assert ids(page)[0] == "2007_000024"
    page.keyboard.press("[")
    assert ids(page)[0] == "2007_000012"
    page.locator("[aria-label='Page']").first.fill("9")
    page.keyboard.press("Enter")
    assert ids(page) == [f"2007_00009{digit}" for digit in range(6, 10)]
    assert page.locator("[aria-label='Last page']").first.is_disabled()


def test_keys_lead_from_image_to_image_over_the_end_of_a_page(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery&size=12")
    focused = "document.activeElement.getAttribute('aria-label')"
    page.keyboard.press("j")
    assert page.evaluate(focused) == "2007_000000"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(focused) == "2007_000001"
    for _ in range(11):
        page.keyboard.press("j")
    assert page.evaluate(focused) == "2007_000012"
    assert "page=2" in page.evaluate("location.hash")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "2007_000011"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("jk?")  # text now, not commands
    assert page.input_value("[name=q]") == "jk?"
    assert page.locator("dialog[open]").count() == 0


def test_keys_are_shown_and_those_of_one_letter_can_be_turned_off(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden()
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert page.locator("#keys").is_hidden()
    assert page.evaluate("document.activeElement.matches('.card')") is False
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.matches('.card')")


def test_back_leads_away_from_the_keys_too(visit: Visit, report: Path) -> None:
    page = visit(report, f"#image={GALLERY.ids[3]}")
    full_view(page)
    page.evaluate("location.hash = '#gallery'")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.go_back()
    full_view(page)
    assert page.locator("dialog[open]").count() == 1


# ---- full view

def test_enter_opens_the_full_view_and_escape_gives_the_focus_back(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    full_view(page)
    assert page.locator("#viewer-id").text_content() == "2007_000001"
    assert page.evaluate("location.hash") == "#image=2007_000001"
    page.keyboard.press("j")
    assert page.locator("#viewer-id").text_content() == "2007_000002"
    escape(page)
    assert page.locator("#viewer").is_hidden()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "2007_000002"
    assert page.evaluate("location.hash") == "#gallery"


def test_the_focus_stays_within_the_full_view(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000001")
    full_view(page)
    inside = "document.activeElement === document.body || document.activeElement.closest('#viewer') !== null"
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        assert page.evaluate(inside)
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"viewer-next", "viewer-close", "stage", "viewer-opacity", "zoom-in", "truth"} <= reached


def test_back_closes_the_full_view_and_forward_opens_it(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery&sort=iou")
    page.locator(".panel").nth(3).click()
    full_view(page)
    assert "layer=heat-r2" in page.evaluate("location.hash")
    page.go_back()
    assert page.locator("#viewer").is_hidden()
    assert page.evaluate("location.hash") == "#gallery&sort=iou"
    page.go_forward()
    full_view(page)
    assert page.locator("#layer-title").text_content() == "heatmap, round r2"


def test_an_image_opened_right_after_another_was_closed_stays_open_at_its_whole_size(visit: Visit, report: Path) -> None:
    page = visit(report, f"#image={GALLERY.ids[0]}")
    full_view(page)
    page.keyboard.press("+")
    assert page.locator("#zoom-value").text_content() == "150 %"
    # In one task, so that the browser tells of the closing only when the next image is open already.
    page.evaluate("""() => {
        const view = document.getElementById("viewer");
        view.addEventListener("close", () => { view.dataset.told = "yes"; }, {once: true});
        view.close();
        document.querySelectorAll(".card")[1].querySelector(".panel").click();
    }""")
    page.wait_for_selector("#viewer[data-told]", state="attached")
    full_view(page)
    assert page.locator("#viewer-id").text_content() == GALLERY.ids[1]
    assert page.locator("#zoom-value").text_content() == "100 %"
    assert f"image={GALLERY.ids[1]}" in page.url
    page.keyboard.press("Escape")
    until(page, "location.hash === '#gallery'")


def test_a_filter_chosen_right_after_an_image_was_closed_leaves_it_closed(visit: Visit, report: Path) -> None:
    page = visit(report, f"#image={GALLERY.ids[0]}")
    full_view(page)
    page.evaluate("""() => {
        const view = document.getElementById("viewer"), split = document.querySelector("[name=split]");
        view.addEventListener("close", () => { view.dataset.told = "yes"; }, {once: true});
        view.close();
        split.value = "val";
        split.dispatchEvent(new Event("change", {bubbles: true}));
    }""")
    page.wait_for_selector("#viewer[data-told]", state="attached")
    until(page, "location.hash === '#gallery&split=val'")
    assert page.locator("#viewer[open]").count() == 0


def test_layers_are_chosen_in_the_strip_and_by_keys(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000090")
    full_view(page)
    title = page.locator("#layer-title")
    assert title.text_content() == "prediction"
    page.locator("#strip .panel", has_text="errors").click()
    assert title.text_content() == "errors of the prediction"
    assert page.locator("#strip [aria-pressed=true]").text_content() == "errors of the prediction"
    page.keyboard.press("ArrowUp")
    assert title.text_content() == "truth"
    page.keyboard.press("1")
    assert title.text_content() == "prediction before the CRF"
    page.keyboard.press("0")
    assert title.text_content() == "photograph"
    assert page.locator(".sheet img").count() == 1
    page.keyboard.press("2")
    page.locator("#stage").focus()
    page.keyboard.press(" ")
    assert page.locator(".sheet .layer").evaluate("(image) => getComputedStyle(image).opacity") == "0"
    labels = ", ".join(VOC[label - 1] for label in GALLERY.labels[90])
    assert page.locator(".sheet .layer").get_attribute("alt") == f"2007_000090: prediction; {labels}"


def test_the_class_under_the_pointer_is_named(visit: Visit, report: Path) -> None:
    row = 1
    page = visit(report, f"#image={GALLERY.ids[row]}&layer=truth")
    full_view(page)
    until(page, "document.querySelectorAll('#viewer-legend li').length === 2")
    names = [GALLERY.classes[label] for label in GALLERY.labels[row]]
    assert sorted(page.locator("#viewer-legend bdi").all_text_contents()) == sorted(names)
    box = page.locator("#sheet").bounding_box()
    for x, y, name in ((0.3, 0.5, names[0]), (0.7, 0.5, names[1]), (0.02, 0.02, "background")):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        text = page.locator("#probe").text_content()
        assert text.startswith(f"{name} at x ")
        found = [int(number) for number in re.findall(r"\d+", text)[-2:]]
        assert abs(found[0] - x * 200) <= 1
        assert abs(found[1] - y * 150) <= 1


def test_values_and_errors_under_the_pointer_are_named(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000001&layer=heat-r1")
    full_view(page)

    def under(x: float, y: float) -> str:
        box, end = page.locator("#sheet").bounding_box(), time.monotonic() + 60
        while True:  # until the layer is decoded, the place alone is told
            page.mouse.move(0, 0)
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
            if page.locator("#probe b").count() or time.monotonic() > end:
                text: str = page.locator("#probe").text_content()
                return text

    assert float(re.findall(r"about (\S+) at", under(0.3, 0.5))[0]) > 0.8
    assert float(re.findall(r"about (\S+) at", under(0.02, 0.02))[0]) < 0.1
    page.select_option("#heat-class", label="bicycle")
    assert float(re.findall(r"about (\S+) at", under(0.3, 0.5))[0]) < 0.3
    assert float(re.findall(r"about (\S+) at", under(0.7, 0.5))[0]) > 0.8
    page.locator("#strip .panel", has_text="errors").click()
    assert under(0.3, 0.55).startswith("right at ")
    page.locator("#strip .panel", has_text="mined").click()
    assert under(0.02, 0.02).startswith("not mined at ")


def test_the_picture_zooms_and_moves_and_fits_again(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000001")
    full_view(page)
    assert page.locator("#zoom-value").text_content() == "100 %"
    box = page.locator("#sheet").bounding_box()
    page.keyboard.press("+")
    page.click("#zoom-in")
    wide = page.locator("#sheet").bounding_box()
    assert wide["width"] == pytest.approx(2.25 * box["width"], rel=0.01)
    stage = page.locator("#stage").bounding_box()
    page.mouse.move(stage["x"] + 300, stage["y"] + 200)
    page.mouse.down()
    page.mouse.move(stage["x"] + 340, stage["y"] + 230)
    page.mouse.up()
    moved = page.locator("#sheet").bounding_box()
    assert (round(moved["x"] - wide["x"]), round(moved["y"] - wide["y"])) == (40, 30)
    page.keyboard.press("f")
    assert page.locator("#sheet").bounding_box() == box


def test_a_link_reproduces_what_was_seen(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    page.select_option("[name=split]", "train")
    page.select_option("[name=sort]", "missed")
    page.fill("#opacity", "40")
    page.locator(".card").nth(2).locator(".panel").nth(3).click()
    full_view(page)
    link, title, place = page.evaluate("location.href"), page.locator("#viewer-id").text_content(), page.locator("#viewer-place").text_content()
    other = visit(link)
    full_view(other)
    assert other.locator("#viewer-id").text_content() == title
    assert other.locator("#viewer-place").text_content() == place == "train, 3 of 80"
    assert other.locator("#layer-title").text_content() == "heatmap, round r2"
    assert other.input_value("#viewer-opacity") == "40"
    other.keyboard.press("Escape")
    assert shown(other).startswith("80 of 100 images")
    assert ids(other) == ids(page)


def test_a_link_to_an_image_leads_to_its_page_and_an_unknown_one_says_so(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000070")
    full_view(page)
    escape(page)
    assert "2007_000070" in ids(page)
    page.evaluate("location.hash = '#image=2099_000000'")
    page.wait_for_selector("#stage-note:visible")
    assert page.locator("#stage-note").text_content() == "No image of this report has this id."
    escape(page)
    page.evaluate("location.hash = '#gallery&class=%E0%A4&page=-3&size=7&sort=constructor&failure=__proto__&least=x&opacity=900&__proto__=1'")
    assert shown(page) == "100 images, 1 to 24 shown"


# ---- names from anywhere

HOSTILE = ("<img src=x onerror=alert(1)>", '"><script>alert(1)</script>', "</script>", "עברית מימין", "long " * 60, "🦊 fox", "constructor",
           "__proto__", "a/b?c=d&e#f%20", "' onmouseover='alert(1)", "{{ 7*7 }}", "\u202eevil", "<!--", "a,b")


def test_hostile_names_are_shown_as_they_are(visit: Visit, tmp_path: Path) -> None:
    gallery = gallery_of(len(HOSTILE), HOSTILE, ids=HOSTILE, size=SMALL, train=0)
    hostile = {name: name for name in HOSTILE}
    overview = overview_of(HOSTILE)
    overview = Overview(**{**vars(overview), "params": {**hostile, "group <b>": hostile}, "metrics": {**overview.metrics, "<i>": hostile}})
    write_report(tmp_path, overview, gallery, sides=(32, 48), run={
        "revision": {"commit": "<img src=x onerror=alert(1)>", "branch": "</script>", "dirty": False}, "versions": hostile, "stale": HOSTILE,
        "runtime": [{"stage": name, "seconds": 1.0, "count": "1", "unit": name, "per_second": "1", "peak_memory_mib": "1", "device": name}
                    for name in HOSTILE],
        "against": {"name": HOSTILE[0], "metrics": [[name, name, 1] for name in HOSTILE], "params": [[name, {name: name}, name] for name in HOSTILE],
                    "artefacts": [[name, name, None] for name in HOSTILE], "warnings": HOSTILE, "incomparable": HOSTILE}})
    page = visit(tmp_path)
    page.on("dialog", lambda dialog: pytest.fail(f"a name was run: {dialog.message}"))
    assert page.locator("#class-table tbody th").all_text_contents() == ["background", *HOSTILE]
    assert page.locator("#run-facts code").first.text_content() == HOSTILE[0]
    for number in (0, 2, 7, 8):
        page.locator("#class-table tbody a").nth(number).click()
        assert page.input_value("[name=class]") == HOSTILE[number]
        assert page.locator(".card").count() > 0
        page.go_back()
    page.evaluate("location.hash = '#gallery'")
    assert ids(page) == list(HOSTILE)
    loaded(page)
    assert page.locator(".card").first.locator("img").first.get_attribute("alt").startswith(HOSTILE[0])
    for name in HOSTILE:
        page.evaluate("(id) => { location.hash = '#image=' + encodeURIComponent(id); }", name)
        full_view(page)
        assert page.locator("#viewer-id").text_content() == name
        escape(page)
    assert page.locator("script:not([src]), img[src=x], [onerror], [onmouseover], b:not(#theme-name):not(.brand b):not(#probe b)").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


# ---- what may be missing

def test_without_run_js_the_page_says_what_is_unknown(visit: Visit, tmp_path: Path) -> None:
    write_report(tmp_path, overview_of(["cat"]), gallery_of(3, ["cat"], size=SMALL), sides=(32, 32))
    page = visit(tmp_path, missing=("run.js",))
    assert "run.js is not here" in page.locator("#run").text_content()
    assert "54.1" in page.locator(".tile").first.text_content()


def test_run_js_of_another_report_is_not_shown(visit: Visit, tmp_path: Path) -> None:
    write_report(tmp_path, overview_of(["cat"]), gallery_of(3, ["cat"], size=SMALL), sides=(32, 32),
                 run={"digest": "of another", "versions": {"torch": "9.9"}})
    page = visit(tmp_path)
    assert "is of another report" in page.locator("#run").text_content()
    assert "9.9" not in page.locator("#run").text_content()


def test_what_makes_a_run_or_its_differences_doubtful_is_said(visit: Visit, tmp_path: Path) -> None:
    write_report(tmp_path, overview_of(["cat"]), gallery_of(3, ["cat"], size=SMALL), sides=(32, 32), run={
        "revision": {"commit": "c" * 40, "branch": None, "dirty": False}, "stale": ["seed", "mine.threshold"],
        "against": {"name": "main", "metrics": [["val.miou", 0.5, 0.6], ["data.images", 1, 2]], "warnings": ["val: not measured alike"],
                    "incomparable": ["val.miou"]}})
    page = visit(tmp_path)
    assert "2 parameter(s) changed since the stages ran (seed, mine.threshold)" in page.locator("#run-facts .notice").text_content()
    assert page.locator("#against .notice").text_content() == "Mind: val: not measured alike."
    assert page.locator("#against tbody td:last-child").all_text_contents() == ["not comparable", "▲ +1"]
    assert page.evaluate("document.querySelector('#against .notice').nextElementSibling.querySelector('table') !== null")


def test_a_missing_or_damaged_shard_is_named_in_the_card_and_can_be_tried_again(visit: Visit, report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    shutil.copytree(report, folder)
    (folder / "data/thumbs/00000.js").unlink()
    (folder / "data/full/00000.js").write_text("aepsl.shard('full', 7, []);\n")
    (folder / "data/full/00001.js").write_text('aepsl.shard("full",1,[["!!",["!!","!!"]],null]);\n')
    page = visit(folder, "#gallery&size=48", missing=("00000.js", "00001.js"))
    fault = page.locator(".card").first.locator(".fault")
    fault.wait_for()
    assert "report/data/thumbs/00000.js cannot be read: it is missing" in fault.text_content()
    shutil.copy(report / "data/thumbs/00000.js", folder / "data/thumbs/00000.js")
    fault.locator("button").click()
    loaded(page)
    assert page.locator(".card").first.locator(".fault").count() == 0
    page.evaluate("location.hash = '#image=2007_000001'")
    until(page, "document.querySelector('#stage-note').textContent.includes('data/full/00000.js holds no images')")
    page.evaluate("location.hash = '#image=2007_000005'")
    until(page, "document.querySelector('#stage-note').textContent.includes('no picture of 2007_000005')")
    page.evaluate("location.hash = '#image=2007_000009'")  # the page goes on
    page.wait_for_selector("#viewer-legend li")


def test_without_its_index_the_gallery_says_what_to_do(visit: Visit, report: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    shutil.copytree(report, folder, ignore=shutil.ignore_patterns("data"))
    page = visit(folder, "#gallery", missing=("index.js",))
    assert "report/data/index.js cannot be read" in page.locator("#count").text_content()
    assert page.locator("[name=q]").is_disabled()
    page.click("text=Overview")
    assert "54.1" in page.locator(".tile").first.text_content()


@pytest.mark.parametrize("count", [0, 1, 20])
def test_reports_without_truth_or_images_are_whole(visit: Visit, tmp_path: Path, count: int) -> None:
    overview = overview_of(["cat", "dog"], truth=False)
    if count == 0:
        overview = Overview(overview.classes, {}, [], [], None, {}, {})
    write_report(tmp_path, overview, gallery_of(count, ["cat", "dog"], truth=False, size=SMALL), sides=(32, 32), run={})
    page = visit(tmp_path)
    assert "No scores" in page.locator("#scores").text_content()
    assert page.locator("#matrix").count() == 0
    page.click("nav >> text=Gallery")
    assert shown(page) == {0: "This report holds no images.", 1: "1 image", 20: "20 images"}[count]
    assert page.locator("[name=failure]").is_disabled()
    if count:
        loaded(page)
        page.keyboard.press("Enter")
        full_view(page)
        assert "IoU" not in page.locator("#viewer-facts").text_content()


# ---- anywhere

def test_a_key_held_down_goes_through_images_and_the_address_follows(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000000")
    full_view(page)
    page.evaluate("""() => { for (let press = 0; press < 90; press += 1)
        document.querySelector('#viewer').dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true, cancelable: true})); }""")
    assert page.locator("#viewer-id").text_content() == "2007_000090"
    assert page.evaluate("gallery.link()").endswith("#image=2007_000090")
    page.wait_for_selector(".sheet img")
    escape(page)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "2007_000090"


def test_the_report_of_a_finished_run_opens_and_shows_its_images(visit: Visit, finished: Any) -> None:
    page = visit(finished / "report", "#gallery")
    assert shown(page) == "18 images"
    loaded(page)
    page.keyboard.press("Enter")
    full_view(page)
    escape(page)
    page.select_option("[name=split]", "val")
    assert len(ids(page)) == 6
    page.click("nav >> text=Overview")
    assert page.locator(".tile").count() >= 3
    assert page.locator("#rounds tbody tr").count() == 2
    assert page.locator(".chart").count() >= 2
    assert "torch" in page.locator("#run").text_content()


def test_the_page_works_from_a_web_server_too(visit: Visit, serve: Callable[[Path], str], report: Path) -> None:
    page = visit(serve(report), "#gallery&sort=iou")
    loaded(page)
    page.locator(".panel").first.click()
    full_view(page)
    assert all(address.startswith("http://127.0.0.1:") for address in page.asked)
    assert any(address.endswith(".js") and "/data/full/" in address for address in page.asked)


@pytest.mark.parametrize("address", ["", "#gallery", "#image=2007_000001"])
def test_a_phone_shows_all_without_scrolling_sideways(visit: Visit, report: Path, address: str) -> None:
    page = visit(report, address, **PHONE)
    if address:
        loaded(page)
        page.locator("#filter-box").evaluate("(box) => { box.open = true; }")
    for width in (360, 320):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("!document.querySelector('dialog[open]') || document.querySelector('dialog[open]').scrollWidth <= innerWidth")
    touched = "button, select, input, summary, .top a, .contents a, .links a"
    small = page.evaluate("""(touched) => [...document.querySelectorAll(touched)].filter((element) => {
        const box = (element.closest('label.check') ?? element).getBoundingClientRect();
        return box.width && element.checkVisibility() && !element.closest('table') && (box.height < 43.5 || box.width < 43.5);
    }).map((element) => `${element.tagName} ${element.id} ${element.textContent}`)""", touched)
    assert small == []


def test_a_finger_turns_to_the_next_image_and_back(visit: Visit, report: Path) -> None:
    page = visit(report, "#image=2007_000001", **PHONE)
    full_view(page)
    box = page.locator("#stage").bounding_box()
    touch = page.context.new_cdp_session(page)

    def wipe(*places: int) -> None:
        for number, x in enumerate(places):
            points = [{"x": x, "y": box["y"] + 150}]
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove" if number else "touchStart", "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    wipe(250, 200, 150, 100)
    assert page.locator("#viewer-id").text_content() == "2007_000002"
    wipe(100, 150, 200, 250)
    assert page.locator("#viewer-id").text_content() == "2007_000001"
    wipe(100, 120)
    assert page.locator("#viewer-id").text_content() == "2007_000001"


def test_a_keyboard_reaches_everything_and_shows_where_it_is(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery&size=12")
    loaded(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    order = []
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.name || document.activeElement.id || document.activeElement.textContent"))
    assert page.evaluate("location.hash") == "#gallery&size=12"
    assert order[:3] == ["q", "split", "class"]
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select')].filter((element) =>
        !element.getAttribute('aria-label') && !element.textContent.trim() && !element.labels?.length).map((element) => element.outerHTML)""")
    assert unnamed == []


def test_what_is_printed_has_no_controls(visit: Visit, report: Path) -> None:
    page = visit(report, "#gallery")
    loaded(page)
    page.emulate_media(media="print")
    assert page.locator("#filters").is_hidden()
    assert page.locator(".tools").is_hidden()
    assert page.locator(".card").first.is_visible()


def test_without_scripts_the_overview_is_there(visit: Visit, report: Path) -> None:
    page = visit(report, java_script_enabled=False)
    assert "54.1" in page.locator(".tile").first.text_content()
    assert page.locator("noscript").count() == 1


# ---- many images

def test_ten_thousand_images_weigh_less_than_two_megabytes_before_scrolling(visit: Visit, tmp_path: Path) -> None:
    write_report(tmp_path, overview_of(), gallery_of(10_000), sides=(128, 64), most_shards=8, run={})
    for address in ("", "#gallery"):
        page = visit(tmp_path, address)
        if address:
            loaded(page)
        page.wait_for_load_state("networkidle")
        files = {Path(url.removeprefix("file://").partition("#")[0]) for url in page.asked}
        assert tmp_path / "data/index.js" in files
        assert len([file for file in files if "thumbs" in file.parts]) <= (2 if address else 0)
        assert sum(file.stat().st_size for file in files) < 2_000_000
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


def test_shards_are_kept_by_the_handful_while_one_goes_through_all(visit: Visit, tmp_path: Path) -> None:
    write_report(tmp_path, overview_of(["cat"]), gallery_of(250, ["cat"], size=SMALL), sides=(24, 24), run={})
    page = visit(tmp_path, "#gallery&size=48")
    for number in range(1, 6):
        page.evaluate(f"location.hash = '#gallery&size=48&page={number}'")
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        until(page, "[...document.querySelectorAll('.card')].at(-1).querySelectorAll('img').length > 0")
    for row in range(0, 24, 4):
        page.evaluate(f"location.hash = '#image=2007_{row:06d}'")
        until(page, f"document.querySelector('#viewer-id').textContent === '2007_{row:06d}' && document.querySelector('.sheet img')")
    kept = page.evaluate("shards.sizes()")
    assert 4 <= kept["thumbs"] <= 6
    assert 0 < kept["full"] <= 3


def test_the_benchmark_measures_weight_and_first_view(browser: Any, tmp_path: Path) -> None:
    assert browser.is_connected()
    assert run("report", tmp_path / "rows", quick=True) is None
    weight, view = rows_in(tmp_path / "rows")
    assert weight["unit"] == "MB"
    assert 0.05 < weight["ours"] < 2
    assert view["unit"] == "s"
    assert view["ours"] > 0
