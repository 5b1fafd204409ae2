import re
import statistics
from pathlib import Path

import pytest

from aepsl.errors import AepslError
from aepsl.evaluation import paper
from aepsl.evaluation.ablation_tables import VARIANTS, Table, markdown, mean_and_spread, read, with_tables, write

ROOT = Path(__file__).resolve().parents[2]


def row(data: str, variant: str, seed: int, miou: float, labels: float | None = 40.0) -> dict:
    return {"data": data, "variant": variant, "seed": seed, "pseudo_label_miou": labels, "miou": miou}


@pytest.mark.parametrize(("values", "expected"), [
    ([], "not measured yet"), ([None], "–"), ([50.35], "50.4 (1)"), ([1.0, 3.0], "2.0 ± 1.4 (2)"), ([1.0, None, 3.0], "2.0 ± 1.4 (2)"),
    ([28.9915, 31.302, 30.6792], "30.3 ± 1.2 (3)")])
def test_a_cell_is_mean_sample_deviation_and_seeds(values, expected):
    assert mean_and_spread(values) == expected


def test_a_table_has_a_line_per_variant_and_columns_per_data_set():
    table = Table({"rounds": [row("shapes", "r1", 1, 28.0), row("shapes", "r1", 2, 32.0), row("mine|2", "r2", 1, 50.0)], "psl": [
        row("shapes", "fully-supervised", 1, 80.0, None)]})
    rounds = markdown(table)["rounds"].split("\n")
    assert rounds[0] == ("| mined up to | paper: val | shapes: pseudo-labels | shapes: val | voc-animals: pseudo-labels | voc-animals: val "
                         "| mine\\|2: pseudo-labels | mine\\|2: val |")
    assert rounds[2] == ("| r1 | 44.9 [U] | 40.0 ± 0.0 (2) | 30.0 ± 2.8 (2) | not measured yet | not measured yet "
                         "| not measured yet | not measured yet |")
    assert rounds[3].endswith("| 40.0 (1) | 50.0 (1) |")
    assert [line.split(" | ")[0] for line in rounds[2:]] == ["| r1", "| r2", "| r3", "| r4"]
    assert "| fully-supervised | 67.6 [R] | – | 80.0 (1) | not measured yet | not measured yet |" in markdown(table)["psl"]


def test_classes_stand_beside_the_papers_with_their_mean():
    classes = [{"data": "voc-animals", "variant": "on", "seed": seed, "class": name, "iou": iou}
               for seed, name, iou in ((1, "background", 80.0), (1, "dog", 40.0), (2, "background", 84.0), (2, "dog", None), (1, "unicorn", 7.0))]
    lines = markdown(Table(classes=classes))["per-class"].split("\n")
    assert lines[0] == "| class | paper, PSL | voc-animals, PSL | paper, PSL++ | voc-animals, PSL++ |"
    assert lines[2:] == ["| background | 83.3 | 82.0 ± 2.8 (2) | 83.4 | not measured yet |", "| dog | 69.8 | 40.0 (1) | 71.7 | not measured yet |",
                         "| mean | 76.5 | 72.0 ± 17.0 (2) | 77.6 | not measured yet |"]


def test_the_papers_classes_add_up_to_its_means():
    assert {variant: f"{statistics.mean(values.values()):.1f}" for variant, values in paper.IOU.items()} == {
        "off": "50.9", "on": "54.1", "psl++": "55.0", "true-labels": "56.1"}
    assert all(paper.PSL[variant] == f"{statistics.mean(values.values()):.1f}" for variant, values in paper.IOU.items())
    assert (tuple(paper.ROUNDS), tuple(paper.PSL)) == (VARIANTS["rounds"], VARIANTS["psl"])


def test_what_is_written_is_read_again(tmp_path):
    table = Table({"rounds": [row("shapes", "r1", 1, 28.1234)], "psl": [row("shapes", "fully-supervised", 1, 80.0, None)]},
                  [{"data": "shapes", "variant": "on", "seed": 1, "class": "dog", "iou": None}], {"shapes": {"lr": 1e-7, "size": 96}})
    write(table, tmp_path / "out")
    assert read(tmp_path / "out") == table
    assert (tmp_path / "out/rounds.csv").read_text() == "data,variant,seed,pseudo_label_miou,miou\nshapes,r1,1,40,28.1234\n"


def test_a_folder_without_tables_is_empty(tmp_path):
    assert read(tmp_path) == Table()


HEADER = "data,variant,seed,pseudo_label_miou,miou\n"


@pytest.mark.parametrize(("text", "message"), [
    ("data,variant\n", r"rounds\.csv: expected the columns data,variant,seed,pseudo_label_miou,miou, found data,variant; take it from git"),
    (f"{HEADER}shapes,on,1,40,50\n", r"rounds\.csv: line 2: expected a variant out of r1, r2, r3, r4, .* found variant 'on'"),
    (f"{HEADER}shapes,r1,1,40,\n", r"line 2: .* found variant 'r1', mIoU None; mend the line"),
    (f"{HEADER}shapes,r1,one,40,50\n", r"line 2: .* found invalid literal for int"),
    (f"{HEADER}shapes,r1,1,40,5o\n", r"line 2: .* found could not convert string to float: '5o'"),
    (f"{HEADER}shapes,r1,1,40,50\nshapes,r1,1,40,51\n", r"line 3: .* found the same data, variant and seed as a line before"),
    (f"{HEADER}shapes,r1\n", r"line 2: expected a variant")])
def test_a_faulty_file_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "rounds.csv").write_text(text)
    with pytest.raises(AepslError, match=message):
        read(tmp_path)


BEGIN, END = "<!-- ablations: psl -->", "<!-- /ablations: psl -->"


def test_tables_go_between_their_markers_and_again_changes_nothing():
    tables = {"rounds": "| r |", "psl": "| p |", "per-class": "| c |"}
    text = f"a\n{BEGIN}\nold\n{END}\nb\n<!-- ablations: rounds --><!-- /ablations: rounds -->\n"
    once = with_tables(text, tables, "README.md")
    assert once == f"a\n{BEGIN}\n\n| p |\n\n{END}\nb\n<!-- ablations: rounds -->\n\n| r |\n\n<!-- /ablations: rounds -->\n"
    assert with_tables(once, tables, "README.md") == once


@pytest.mark.parametrize("name", ["docs/results.md", "docs/reproducing.md"])
def test_the_repositorys_texts_show_its_rows(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert with_tables(text, markdown(read(ROOT / "metrics/ablations")), name) == text, "run: make ablation-tables"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{END}\n{BEGIN}\n{END}"])
def test_missing_or_doubled_markers_are_named(text):
    with pytest.raises(AepslError, match=r"^README\.md: expected .*<!-- "):
        with_tables(text, {"psl": "| p |"}, "README.md")


@pytest.mark.parametrize("text", [f"{HEADER}shapes,r1,1,40,nan\n", f"{HEADER}shapes,r1,1,40,1e999\n", f"{HEADER}shapes,r1,1,-1,50\n",
                                  f"{HEADER}=1+1,r1,1,40,50\n",
                                  f'{HEADER}"shapes\n",r1,1,40,50\n', f'{HEADER}"shapes,r1,1,40,50\n', f"{HEADER}\udcff,r1,1,40,50\n",
                                  f"{HEADER}shapes,r1,1,40,50,60\n"])
def test_rows_that_nobody_measured_are_refused(tmp_path, text):
    (tmp_path / "rounds.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AepslError, match=r"rounds\.csv: .*expected .*found"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["[]", '{"a": 1}', '{"a": {}, "a": {}}', "["])
def test_settings_of_another_form_are_refused(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(AepslError, match=r"settings\.json: expected JSON as this project writes it, found"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a\\|b", "<script>x</script>", "<!-- /ablations: rounds -->", "[x](https://x)", "![x](https://x)", "`x`", "**x**",
                                  "&lt;", "a\nb | c", "\x1b[2J"])
def test_a_name_of_data_is_text_in_the_tables_and_nothing_else(name):
    lines = markdown(Table({"rounds": [row(name, "r1", 1, 28.0)], "psl": []}))["rounds"].split("\n")
    assert len(lines) == 2 + len(VARIANTS["rounds"])
    assert all(line.isprintable() for line in lines)
    for line in lines:  # a bar ends a cell unless an odd number of backslashes stands before it
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 2 * 4 + 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>`\[\]*&]", lines[0])
