import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.errors import AepslError, FaultList
from aepsl.params import Params, chain_faults, chain_to, load_params, parse_yaml

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
SHIPPED = yaml.safe_load((ROOT / "presets/shapes.yaml").read_text(encoding="utf-8"))
GONE = object()


def load(folder: Path, **changes: object) -> Params:
    """The shipped parameters with changes by dotted path, read from a file; ``GONE`` removes a key."""
    content = copy.deepcopy(SHIPPED)
    for path, value in changes.items():
        *groups, key = path.split(".")
        group = content
        for name in groups:
            group = group[name]
        if value is GONE:
            del group[key]
        else:
            group[key] = value
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_params(file)


def faults(folder: Path, **changes: object) -> list[str]:
    with pytest.raises(FaultList) as caught:
        load(folder, **changes)
    return caught.value.faults


def test_the_shipped_parameters_are_the_shapes_preset_and_load():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets/shapes.yaml").read_bytes()
    assert load_params(ROOT / "params.yaml").data.source == "shapes"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_holds_every_key(preset):
    assert load_params(preset).model_dump() == yaml.safe_load(preset.read_text(encoding="utf-8"))


UNVERIFIED = ("saliency.method", "classify.training.lr_steps", "merge.indoor_classes", "merge.background_below_outdoors",
              "segment.classification_weight", "relabel")


def test_what_is_unverified_is_marked_so_in_the_paper_preset():
    text, marked, at = (ROOT / "presets/voc2012-paper.yaml").read_text(encoding="utf-8"), set(), []
    for line in text.splitlines():
        key = line.partition("#")[0].rstrip()
        if key and not key.lstrip().startswith("- "):
            at = [*at[:(len(key) - len(key.lstrip())) // 2], key.partition(":")[0].strip()]
        if "[U]" in line:
            marked.add(".".join(at))
    assert set(UNVERIFIED) <= marked


def test_all_faults_are_named_at_once_by_dotted_path(tmp_path):
    found = faults(tmp_path, **{"mine.rul": "minmax", "mine.rule": GONE, "data.shapes.train": "many", "classify.training.crop": 31,
                                "segment.psl": "psl", "segment.training.scale": [2.0, 1.0], "relabel.scales": [1.0, 9.0]})
    assert found == [
        "data.shapes.train: input should be a valid integer, found 'many'",
        "classify.training.crop: input should be greater than or equal to 32, found 31",
        "mine.rule: missing; take the line from presets/shapes.yaml",
        "mine.rul: unknown parameter; remove it or correct its spelling",
        "segment.psl: expected 'none', 'predicted' or 'true-labels', found 'psl'",
        "segment.training.scale: expected [smallest, largest], found [2.0, 1.0]",
        "relabel.scales.1: input should be less than or equal to 4, found 9.0",
    ]


@pytest.mark.parametrize(("path", "value", "message"), [
    ("classify.training.lr", "1e-3", "input should be a valid number, found '1e-3' (YAML reads 1e-3 as text: write 0.001)"),
    ("classify.training.batch", 2.5, "input should be a valid integer, found 2.5"),
    ("classify.training.mirror", 1, "input should be a valid boolean, found 1"),
    ("classify.training.momentum", 1.0, "input should be less than 1, found 1.0"),
    ("classify.training.weight_decay", -0.1, "input should be greater than or equal to 0, found -0.1"),
    ("classify.training.lr", float("inf"), "input should be a finite number, found inf"),
    ("classify.training.scale", [1.25, 0.8], "expected [smallest, largest], found [1.25, 0.8]"),
    ("classify.training.lr_steps", [4.0, 2.0], "expected ascending values, found [4.0, 2.0]"),
    ("classify.network.output_stride", 32, "expected 8 or 16, found 32"),
    ("mine.threshold", True, "input should be a valid number, found True"),
    ("mine.scales", [], "list should have at least 1 item after validation, not 0, found []"),
    ("predict.prohibit_below", 1.5, "input should be less than or equal to 1, found 1.5"),
    ("evaluate.void_as", "ignore", "expected 'miss', 'background' or 'left-out', found 'ignore'"),
    ("seed", -1, "input should be greater than or equal to 0, found -1"),
])
def test_a_fault_tells_what_was_expected_and_found(tmp_path, path, value, message):
    assert faults(tmp_path, **{path: value}) == [f"{path}: {message}"]


def test_a_value_of_several_possible_types_is_named_by_its_own_path(tmp_path):
    assert faults(tmp_path, **{"data.folder.mask_values": "voc"}) == [
        "data.folder.mask_values: expected 'voc2012', found 'voc'",
        "data.folder.mask_values: input should be a valid dictionary, found 'voc'"]
    assert "data.folder.mask_values.cat: input should be less than or equal to 254, found 255" in faults(
        tmp_path, **{"data.folder.mask_values": {"cat": 255}})
    assert load(tmp_path, **{"data.folder.mask_values": {"cat": 254}}).data.folder.mask_values == {"cat": 254}


def test_saliency_maps_must_be_named_when_they_are_asked_for(tmp_path):
    [fault] = faults(tmp_path, **{"saliency.method": "maps"})
    assert fault.startswith("saliency.maps: expected a folder or a zip")
    assert load(tmp_path, **{"saliency.method": "maps", "saliency.maps": "maps.zip"}).saliency.maps == "maps.zip"


@pytest.mark.parametrize("change", [{"width": 0.5}, {"stages": 4}])
def test_weights_exist_for_whole_networks_only(tmp_path, change):
    network = SHIPPED["classify"]["network"] | {"width": 1.0, "stages": None, "weights": "imagenet"}
    assert load(tmp_path, **{"classify.network": network}).classify.network.weights == "imagenet"
    [fault] = faults(tmp_path, **{"classify.network": network | change})
    assert fault.startswith("classify.network.weights: exist for whole networks")


@pytest.mark.parametrize(("change", "why"), [
    ({"weights": "none", "frozen_stages": 1}, "random layers must learn"),
    ({"weights": "imagenet", "frozen_stages": 4, "trunk": "resnet50"}, "fewer than the 4 stages of resnet50"),
])
def test_only_some_stages_with_weights_can_be_frozen(tmp_path, change, why):
    network = SHIPPED["classify"]["network"] | {"width": 1.0, "stages": None}
    assert load(tmp_path, **{"classify.network": network | change | {"frozen_stages": 0}}).classify.network.frozen_stages == 0
    [fault] = faults(tmp_path, **{"classify.network": network | change})
    assert fault.startswith("classify.network.frozen_stages: expected")
    assert why in fault


def test_whole_numbers_serve_where_fractions_are_expected(tmp_path):
    assert load(tmp_path, **{"classify.training.length": 15}).classify.training.length == 15


def test_parameters_cannot_be_changed_after_loading(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).seed = 2


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_devices(tmp_path, name):
    assert load(tmp_path, **{"compute.device": name}).compute.device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "CPU", "cuda:0 "])
def test_other_devices_are_refused(tmp_path, name):
    assert faults(tmp_path, **{"compute.device": name})[0].startswith("compute.device: string should match pattern")


@pytest.mark.parametrize(("content", "message"), [
    (b"- a\n", "expected groups of parameters, found list; copy one from presets/"),
    (b"", "expected groups of parameters, found nothing; copy one from presets/"),
    (b"seed: [1\n", "expected YAML, found"),
    (b"seed: \xff\n", "expected YAML, found"),
])
def test_a_file_that_holds_no_parameters_is_named(tmp_path, content, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(AepslError, match=message) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AepslError, match=r"none\.yaml: no such file; copy one from presets/"):
        load_params(tmp_path / "none.yaml")


def test_faulty_chains_are_named_together(tmp_path):
    assert faults(tmp_path, rounds={"r1": "r0", "r2": "r9", "r4": "r5", "r5": "r4"}, last_round="r3", passes=["s1", "s2"],
                  relabels={"s3": "s3"}, last_pass="s2") == [
        "rounds.r2: expected the step before it to be r0 or one of ['r1', 'r2', 'r4', 'r5'], found 'r9'; add r9 or correct it",
        "rounds.r4: expected a chain that leads back to r0, found a circle through r4",
        "rounds.r5: expected a chain that leads back to r0, found a circle through r5",
        "last_round: expected r0 or one of ['r1', 'r2', 'r4', 'r5'], found 'r3'",
        "relabels.s3: expected a chain that leads back to s1, found a circle through s3",
        "last_pass: expected s1 or one of ['s3'], found 's2'",
        "passes: expected s1 and every key of relabels ['s1', 's3'], found ['s1', 's2']",
    ]


def test_a_step_that_leads_into_a_circle_is_faulty_too():
    assert chain_faults("rounds", {"r1": "r2", "r2": "r1", "r3": "r1"}, "r0", "last_round", "r3") == [
        f"rounds.{step}: expected a chain that leads back to r0, found a circle through {at}"
        for step, at in [("r1", "r1"), ("r2", "r2"), ("r3", "r1")]]


def test_the_start_of_a_chain_has_nothing_before_it():
    assert chain_faults("rounds", {"r0": "r1", "r1": "r0"}, "r0", "last_round", "r1") == [
        "rounds.r0: r0 is the start of the chain and has no step before it; remove the key"]


@pytest.mark.parametrize("passes", [["s1"], ["s2"], ["s1", "s2", "s3"]])
def test_passes_must_be_the_first_and_every_relabelled_one(tmp_path, passes):
    assert faults(tmp_path, passes=passes, relabels={"s2": "s1"}, last_pass="s2") == [
        f"passes: expected s1 and every key of relabels ['s1', 's2'], found {passes}"]


@pytest.mark.parametrize(("rounds", "last"), [
    ({"r1": "r0", "r2": "r1", "r3": "r2", "r4": "r3"}, "r4"),  # one round more
    ({"r1": "r0", "r2": "r1", "r3": "r2"}, "r2"),  # fewer used than there are
    ({"r1": "r0"}, "r1"), ({}, "r0"),
    ({"r2": "r1", "r1": "r0", "b2": "r1"}, "b2"),  # any order, and a branch
])
def test_chains_grow_and_shrink(tmp_path, rounds, last):
    assert load(tmp_path, rounds=rounds, last_round=last).rounds == rounds


def test_passes_shrink_to_one(tmp_path):
    assert load(tmp_path, passes=["s1"], relabels={}, last_pass="s1").passes == ["s1"]


@pytest.mark.parametrize("passes", [["s1", "full"], ["full"]])
def test_a_pass_may_learn_from_an_oracle(tmp_path, passes):
    assert load(tmp_path, oracles=["full"], passes=passes, last_pass="full").last_pass == "full"


def test_an_oracle_stands_beside_relabelled_passes(tmp_path):
    assert load(tmp_path, oracles=["full"], passes=["s1", "s2", "full"], relabels={"s2": "s1"}, last_pass="s2").oracles == ["full"]


@pytest.mark.parametrize(("changes", "expected"), [
    ({"passes": ["s1", "full"], "last_pass": "full"}, [
        "last_pass: expected s1 or one of [], found 'full'", "passes: expected s1 and every key of relabels ['s1'], found ['full', 's1']"]),
    ({"oracles": ["full"], "passes": ["s1"]}, [
        "passes: expected s1, every key of relabels and every one of oracles ['full', 's1'], found ['s1']"]),
    ({"oracles": ["full"], "passes": ["full"]}, [  # s1 is to predict, so it is to be trained
        "passes: expected s1, every key of relabels and every one of oracles ['full', 's1'], found ['full']"]),
    ({"oracles": ["full"], "passes": ["s2", "full"], "relabels": {"s2": "s1"}, "last_pass": "full"}, [
        "passes: expected s1, every key of relabels and every one of oracles ['full', 's1', 's2'], found ['full', 's2']"]),
    ({"oracles": ["full"], "passes": ["s1", "s2", "full"], "relabels": {"s2": "full"}, "last_pass": "s2"}, [
        "relabels.s2: expected the step before it to be s1 or one of ['s2'], found 'full'; add full or correct it"]),
    ({"oracles": ["s1"]}, ["oracles: expected names that merge and relabel do not use, found 's1'"]),
    ({"oracles": ["full", "full"], "passes": ["full"], "last_pass": "full"}, ["oracles: expected every name once, found ['full', 'full']"]),
    ({"passes": ["s1", "s1"]}, ["passes: expected every name once, found ['s1', 's1']"]),
    ({"oracles": [1]}, ["oracles.0: input should be a valid string, found 1"]),
], ids=["unknown oracle", "oracle without a pass", "s1 missing", "s1 missing below s2", "relabelled by an oracle", "name taken", "oracle twice",
        "pass twice", "no name"])
def test_passes_and_oracles_must_fit(tmp_path, changes, expected):
    assert faults(tmp_path, **changes) == expected


def test_a_chain_is_followed_from_its_start():
    assert chain_to({"r3": "r2", "r1": "r0", "r2": "r1"}, "r0", "r3") == ["r1", "r2", "r3"]
    assert chain_to({"r1": "r0"}, "r0", "r0") == []


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["r0", *"abcdef"]), max_size=6))
def test_a_chain_is_faulty_exactly_where_it_does_not_lead_back_to_the_start(chain):
    def leads_back(step: str) -> bool:
        for _ in range(len(chain) + 1):
            if step == "r0":
                return True
            step = chain.get(step, "nowhere")
        return False

    named = {fault.split(":")[0].removeprefix("rounds.") for fault in chain_faults("rounds", chain, "r0", "last_round", "r0")}
    assert {step for step in chain if not leads_back(step)} >= named
    assert bool(named) == any(not leads_back(step) for step in chain)
    for last in chain.keys() - {step for step in chain if not leads_back(step)}:
        steps = chain_to(chain, "r0", last)
        assert [chain[step] for step in steps] == ["r0", *steps[:-1]]
        assert steps[-1] == last


@pytest.mark.parametrize(("text", "said"), [
    ("a: 1\na: 2\n", "line 2, column 1: expected every key once in its group, found 'a' again"),
    ("a: 010\n", "line 1, column 4: expected a decimal number, found '010'"), ("a: 1:30\n", "expected a decimal number, found '1:30'"),
    ("a: 1_0\n", "expected a decimal number, found '1_0'"), ("a: 0x10\n", "expected a decimal number"), ("a: 1:30.5\n", "expected a decimal number"),
    (f"a: {'9' * 5000}\n", "expected a decimal number, found '999"), ("a: yes\n", "expected true or false, or a name in quotes, found 'yes'"),
    ("? [a]\n: 1\n", "expected a name as key, found a list or a group"), ("a: !!python/object/apply:os.abort []\n",
                                                                          "could not determine a constructor"),
    ("a: !!python/name:os.abort\n", "could not determine a constructor"), ("a: *b\n", "found undefined alias"),
    ("a: 1\n--- \nb: 2\n", "expected a single document"),
    ("[" * 5000, "nested a hundredfold"), (f"a: {'[' * 40}{']' * 40}", "nested more than 32 deep"),
    ("a: &a [*a]\n", "nested more than 32 deep, or one that contains itself"),
    ("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(f"{to}: &{to} [{','.join([f'*{by}'] * 9)}]\n" for by, to in zip("abcdefg", "bcdefgh", strict=True)),
     "references that grow it"),
    ("a: &a {x: 1}\n" + "".join(f"{to}: &{to} {{<<: [{','.join([f'*{by}'] * 9)}]}}\n" for by, to in zip("abcdefg", "bcdefgh", strict=True)),
     "references that grow it"),
    (" " * 300_000, "300000 bytes, more than the 262144"), ("a: \0", "special characters are not allowed"),
    ("a: b: c", "line 1, column 5: mapping values are not allowed")])
def test_yaml_that_could_be_misread_or_harm_is_refused_in_one_line(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(AepslError) as caught:
        load_params(tmp_path / "params.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/params.yaml: expected YAML, found ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_anchors_and_merge_keys_are_read():
    assert parse_yaml(b"a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: 2012-01-01\nd: 1.0e-3\n") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": "2012-01-01", "d": 0.001}
    assert parse_yaml(b"\xef\xbb\xbfa: [1, -2, 0, true, null]") == {"a": [1, -2, 0, True, None]}


@pytest.mark.parametrize(("path", "value"), [
    ("seed", 1 << 32), ("data.shapes.train", 10**9), ("compute.processes", 5000), ("classify.training.crop", 10**6),
    ("classify.training.scale", [0.5, 1e300]),
    ("last_round", "r" * 51), ("data.path", "a\0b"), ("data.folder.train", "a\nb"), ("compute.device", "cuda:١"),
    ("mine.threshold", [["x"] * 99] * 99)])
def test_values_that_no_run_could_have_are_faults(tmp_path, path, value):
    found = faults(tmp_path, **{path: value})
    assert all(fault.startswith(path) and fault.isprintable() and len(fault) < 400 for fault in found if not fault.startswith("rounds"))


def test_a_chain_that_is_a_circle_is_not_followed_for_ever():
    with pytest.raises(KeyError):
        chain_to({"r1": "r2", "r2": "r1"}, "r0", "r1")
