"""Random use, faster than a hand: whatever was pressed, what is open, what is shown and what the address says agree in the end."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KEYS = ("j", "k", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Enter", "Escape", "[", "]", "?", "0", "1", "9", "+", "-", "f", " ", "Tab",
        "Home")
ADDRESSES = ("gallery", "overview", "", "rounds", "image=x", "gallery&page=3", "gallery&failure=missed&sort=-iou", "gallery&q=zzz",
             "gallery&hide=mined", "gallery&size=12&page=9")
# What can be clicked now: behind an open dialog nothing.
CLICK = """(number) => {
    const open = document.querySelector("dialog[open]"), shown = "#gallery:not([hidden])";
    const within = open ? "dialog[open] button" : `nav a, ${shown} button, ${shown} .card a`;
    const all = [...document.querySelectorAll(within)].filter((one) => one.offsetParent && !one.disabled);
    if (all.length) all[number % all.length].click();
}"""
CHOOSE = """(number) => {
    if (document.querySelector("dialog[open]")) return;
    const all = document.querySelectorAll("#filters select"), chosen = all[number % all.length];
    chosen.selectedIndex = Math.floor(number / all.length) % chosen.options.length;
    chosen.dispatchEvent(new Event("change", {bubbles: true}));
}"""
DISAGREE = """() => {
    const {state} = gallery, view = document.getElementById("viewer"), faults = [];
    if (view.open !== Boolean(state.view === "gallery" && state.image)) faults.push(`full view open: ${view.open}, image ${state.image}`);
    if (view.open && document.getElementById("viewer-id").textContent !== state.image) faults.push("the full view shows another image");
    if (document.querySelectorAll("dialog[open]").length > 1) faults.push("two dialogs");
    if (document.getElementById("gallery").hidden !== (state.view !== "gallery")) faults.push(`not the view ${state.view}`);
    // A link to an image leads to its page, of which the link itself says nothing.
    const parts = (address) => address.split("#")[1].split("&").filter((part) => !(view.open && part.startsWith("page="))).sort().join("&");
    if (state.view === "gallery" && parts(gallery.link()) !== parts(location.href)) faults.push(`address ${location.hash}, not ${gallery.link()}`);
    return faults;
}"""


@pytest.mark.parametrize("seed", [1, 2])
def test_random_use_leaves_a_page_whose_parts_agree(visit: Callable[..., Any], report: Path, seed: int) -> None:
    page, rng, done = visit(report, "#gallery"), random.Random(seed), []
    images = page.evaluate("gallery.data.images.id")
    for _ in range(25):
        for _ in range(rng.randint(1, 12)):
            kind = rng.choices(("key", "back", "forward", "address", "click", "choose"), (50, 10, 5, 10, 15, 10))[0]
            what: Any = rng.choice(KEYS) if kind == "key" else rng.choice((*ADDRESSES, f"image={rng.choice(images)}")) if kind == "address" else \
                rng.randrange(1000)
            done.append((kind, what))
            if kind == "key":
                page.keyboard.press(what)
            elif kind in ("back", "forward"):
                page.evaluate(f"navigation.canGo{kind.title()} && history.{kind}()")
            elif kind == "address":
                page.evaluate("(address) => { location.hash = address; }", what)
            else:
                page.evaluate(CLICK if kind == "click" else CHOOSE, what)
            if rng.random() < 0.1:
                page.wait_for_timeout(rng.choice((5, 20, 60)))
        # The address may follow late: browsers forbid to change it often.
        end = time.monotonic() + 40
        page.wait_for_timeout(60)
        while (faults := page.evaluate(DISAGREE)) and time.monotonic() < end:
            page.wait_for_timeout(60)
        assert faults == [], done
        done = [("went on from", page.evaluate("location.hash"))]
