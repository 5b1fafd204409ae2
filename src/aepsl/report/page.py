"""report/index.html and its assets: what is known before any image is looked at, rendered; images are loaded by the page itself, shard by shard.

Everything from data passes Jinja's escaping here or ``textContent`` in the scripts. The page holds no date and no path: equal facts, equal bytes.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from aepsl.data.archive import write_atomically
from aepsl.params import leaves
from aepsl.report.charts import Chart, line_chart
from aepsl.report.facts import ERROR_COLOURS, ERRORS, HEAT_COLOURS, REGION_COLOUR, RIGHT_COLOUR, Gallery, Overview

HERE = Path(__file__).resolve().parent
LARGEST_MATRIX = 60  # classes; beyond that its cells would be too many to read, and to load
MOST_CONFUSIONS = 12
Cell = float | str | None


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its values, a heading, the way its numbers are written (see :func:`written`), what it means."""

    key: str
    title: str
    style: str
    meaning: str = ""


@dataclass(frozen=True)
class Headline:
    """A number that stands at the top, with its interval where there is one."""

    file: str
    key: str
    title: str
    meaning: str
    style: str = "share"


HEADLINES = (
    Headline("val", "miou", "Predictions", "mean IoU over classes on val, after the CRF"),
    Headline("val", "miou_before_crf", "Before the CRF", "mean IoU over classes on val, as the network predicts"),
    Headline("val", "pixel_accuracy", "Pixel accuracy", "share of the pixels of val that have the right class"),
    Headline("pseudo_labels", "pseudo_label_miou", "Pseudo-labels", "mean IoU over classes on train; an ignored pixel counts as an error"),
    Headline("pseudo_labels", "pseudo_label_coverage", "Pixels labelled", "share of the pixels of train that pseudo-labels do not ignore"),
    Headline("pseudo_labels", "relabelled_miou", "Relabelled", "mean IoU over classes on train of the labels of the last pass"),
    Headline("oracle", "erasing_gain", "Gained by erasing", "precision of the mined regions above that of one round of the same area", "points"),
    Headline("rounds", "best_round_oracle", "Best round", "that with the best pseudo-labels, by the truth", "count"))
ROUNDS = (
    Column("round", "round", "text"),
    Column("final_loss", "loss", "loss", "final loss of the classifier"),
    Column("held_out_accuracy", "held-out accuracy, %", "share", "training images kept aside whose best class is one of their labels"),
    Column("mined_area", "mined, %", "share", "share of all pixels mined up to this round"),
    Column("new_area", "new, %", "share", "share of all pixels mined in this round"),
    Column("new_saliency", "saliency of new", "ratio", "mean saliency, 0 to 1, of what this round mined"),
    Column("rest_saliency", "of the rest", "ratio", "mean saliency, 0 to 1, of what is not mined yet"),
    Column("precision", "precision, %", "share", "mined pixels that lie on an object of their class"),
    Column("recall", "recall, %", "share", "pixels of objects that are mined"),
    Column("miou", "mined mIoU, %", "share", "mean IoU of the mined regions"),
    Column("pseudo_label_miou", "pseudo-label mIoU, %", "share", "mean IoU of the pseudo-labels merged from this round"))
BARS = (Column("iou", "after CRF", "share", "IoU on val"), Column("iou_before_crf", "before CRF", "share", "IoU on val"),
        Column("pseudo_label_iou", "pseudo-labels", "share", "IoU on train"))
PER_CLASS = (
    Column("precision", "precision, %", "share", "of predictions on val"), Column("recall", "recall, %", "share", "of predictions on val"),
    Column("relabelled_iou", "relabelled IoU, %", "share", "labels of the last pass, on train"),
    Column("val_images", "images, val", "count"), Column("train_images", "images, train", "count"))


def write_page(out: Path, overview: Overview, gallery: Gallery) -> None:
    """Write ``index.html`` into a folder, and the scripts and styles it needs into ``assets`` there.

    The page loads ``data/index.js`` and shards beside it, written by :mod:`aepsl.report.shards`, and ``run.js`` where there is one.
    """
    (out / "assets").mkdir(parents=True, exist_ok=True)
    for source in sorted((HERE / "assets").iterdir()):
        write_atomically(out / "assets" / source.name, source.read_bytes())
    write_atomically(out / "index.html", render(overview, gallery).encode())


def render(overview: Overview, gallery: Gallery) -> str:
    """The text of index.html."""
    environment = Environment(loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["written"] = written
    return environment.get_template("index.html").render(
        classes=list(zip(overview.classes, [hexadecimal(colour) for colour in gallery.colours], strict=True)),
        counts={split: sum(other == split for other in gallery.splits) for split in dict.fromkeys(gallery.splits)},
        rounds=list(zip(gallery.rounds, map(hexadecimal, gallery.round_colours), strict=False)),
        errors=list(zip(ERRORS, map(hexadecimal, ERROR_COLOURS), strict=True)), right=hexadecimal(RIGHT_COLOUR), region=hexadecimal(REGION_COLOUR),
        heat=list(map(hexadecimal, HEAT_COLOURS)), scored=any(value is not None for values in gallery.scores.values() for value in values),
        headlines=list(headlines(overview.metrics)), yardsticks=yardsticks(overview.metrics), metrics=overview.metrics,
        round_table=table(overview.rounds, ROUNDS), class_rows=class_rows(overview.per_class, gallery), bars=filled(overview.per_class, BARS),
        class_columns=filled(overview.per_class, PER_CLASS), confusion=confusion(overview.confusion), charts=list(charts(overview.curves)),
        params=groups(overview.params), largest_matrix=LARGEST_MATRIX)


def hexadecimal(colour: Sequence[int]) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{part:02x}" for part in colour)


def written(value: Any, style: str) -> str:
    """A number as a reader wants it: a ``share`` in percent, ``points`` of percent with their sign, a ``ratio``, a ``loss``, a ``count``.

    What is no finite number is written as it is, and an absent value as a dash.
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    match style:
        case "share":
            return f"{100 * value:.1f}"
        case "points":
            return f"{100 * value:+.1f}".replace("-", "−")
        case "ratio":
            return f"{value:.2f}"
        case "loss":
            return f"{value:.3f}"
        case "count":
            return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}"


def headlines(metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of :data:`HEADLINES` that were measured."""
    for line in HEADLINES:
        found = metrics.get(line.file, {})
        value = found.get(line.key)
        if isinstance(value, int | float) and math.isfinite(value):
            interval = [found.get(f"{line.key}_{side}") for side in ("low", "high")]
            yield {"title": line.title, "meaning": line.meaning, "text": written(value, line.style), "style": line.style, "value": value,
                   "interval": interval if None not in interval else None}


def yardsticks(metrics: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What scores were measured with, once each."""
    return list(dict.fromkeys(str(values["yardstick"]) for values in metrics.values() if values.get("yardstick")))


def filled(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[Column]:
    """The columns that hold a value in some row."""
    return [column for column in columns if any(row.get(column.key) is not None for row in rows)]


def table(rows: Sequence[Mapping[str, Any]], known: Sequence[Column]) -> dict[str, Any]:
    """Rows under the known columns that hold something, and then under any others by their own names."""
    others = [Column(key, key.replace("_", " "), "") for key in dict.fromkeys(key for row in rows for key in row)
              if key not in {column.key for column in known}]
    return {"columns": filled(rows, [*known, *others]), "rows": rows}


def class_rows(rows: Sequence[Mapping[str, Any]], gallery: Gallery) -> list[dict[str, Any]]:
    """The rows of per_class.csv with the colours of their classes."""
    colours = {name: hexadecimal(colour) for name, colour in zip(gallery.classes, gallery.colours, strict=True)}
    return [{"name": str(row.get("class", "")), "colour": colours.get(str(row.get("class", ""))), "values": row} for row in rows]


def confusion(counts: Sequence[Sequence[int]] | None) -> dict[str, Any] | None:
    """Shares of each row in percent, how dark their cells are, and the confusions of most pixels; None without truth."""
    if not counts or not any(map(any, counts)):
        return None
    totals = [sum(row) for row in counts]
    shares = [[100 * count / total if total else 0.0 for count in row] for row, total in zip(counts, totals, strict=True)]
    pairs = sorted(((count, actual, predicted) for actual, row in enumerate(counts) for predicted, count in enumerate(row)
                    if count and actual != predicted), key=lambda pair: (-pair[0], pair[1:]))
    return {"counts": counts, "totals": totals, "shares": shares,
            "levels": [[0 if share < 0.5 else max(1, round(share / 10)) for share in row] for row in shares],
            "worst": [{"actual": actual, "predicted": predicted, "count": count, "share": shares[actual][predicted]}
                      for count, actual, predicted in pairs[:MOST_CONFUSIONS]]}


def charts(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[Chart]:
    """A chart of the losses of each kind of network, all rounds or passes in it, and one of the terms of each loss that has some."""
    kinds: dict[str, dict[str, Sequence[Mapping[str, float]]]] = {}
    for stage, rows in curves.items():
        kind, _, step = stage.partition("@")
        kinds.setdefault(kind, {})[step or kind] = rows

    def points(rows: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float]]:
        return [(float(row["epoch"]), float(row[key])) for row in rows if isinstance(row.get(key), int | float)]

    found = []
    for kind, steps in kinds.items():
        title = {"classify": "Classifiers, by round", "segment": "Segmenters, by pass"}.get(kind, kind)
        found.append(line_chart(title, {step: points(rows, "loss") for step, rows in steps.items()}, x_label="epoch", y_label="loss"))
    for kind, steps in kinds.items():
        for step, rows in steps.items():
            terms = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("epoch", "lr", "loss")]
            drawn = {term: points(rows, term) for term in terms}
            if sum(any(value for _, value in line) for line in drawn.values()) > 1:
                found.append(line_chart(f"{kind}@{step}, terms of the loss", drawn, x_label="epoch", y_label="loss"))
    yield from (chart for chart in found if chart)


def groups(params: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Parameters by their first name, each a dotted path and its value as JSON; those of no group first."""
    single = [(key, plain(value)) for key, value in params.items() if not isinstance(value, Mapping) or not value]
    nested = [(key, [(path, plain(leaf)) for path, leaf in leaves(value)]) for key, value in params.items() if isinstance(value, Mapping) and value]
    return [*([("general", single)] if single else []), *nested]


def plain(value: Any) -> str:
    """A value as JSON, text without its quotation marks."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
