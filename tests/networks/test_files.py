import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from aepsl.errors import AepslError
from aepsl.networks.blank import save_blank
from aepsl.networks.classifier import Classifier
from aepsl.networks.files import continue_classifier, load_classifier, load_segmenter, save_model, start_from_classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, build_trunk
from aepsl.params import Network

CPU = torch.device("cpu")
CLASSES = ("cat", "größe, b")
FACTS = {"round": "r1", "final_loss": 0.25, "list": [1, "a"]}


SMALL = Network(trunk="mobilenet_v2", output_stride=16, width=0.1, stages=4, weights="none", frozen_stages=0)
WHOLE = Network(trunk="mobilenet_v2", output_stride=8, width=0.1, stages=None, weights="none", frozen_stages=0)


def trunk(network: Network) -> Trunk:
    return build_trunk(network.trunk, output_stride=network.output_stride, width=network.width, stages=network.stages,
                       generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(trunk(SMALL), 2, generator=torch.Generator().manual_seed(1))


def save(path: Path, model: Classifier | Segmenter, network: Network = SMALL) -> Path:
    save_model(path, model, network=network, classes=CLASSES, facts=FACTS)
    return path


def test_a_classifier_comes_back_ready_for_inference_with_everything_known_of_it(tmp_path, classifier):
    loaded, content = load_classifier(save(tmp_path / "new/r1.pt", classifier), CPU)
    assert not loaded.training
    assert (content["classes"], content["facts"]) == (list(CLASSES), FACTS)
    assert content["network"] == {"trunk": "mobilenet_v2", "output_stride": 16, "width": 0.1, "stages": 4}
    assert (loaded.trunk.output_stride, loaded.trunk.preprocessing) == (16, "imagenet")
    images = torch.randn(2, 3, 33, 49, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), classifier.eval()(images))
        torch.testing.assert_close(loaded.heatmaps(images), classifier.heatmaps(images))


def test_a_classifier_goes_on_from_the_one_before_it_and_from_a_blank_file_as_it_was(tmp_path, classifier):
    other = Classifier(trunk(SMALL), 2, generator=torch.Generator().manual_seed(9))
    weight = other.fc.weight.detach().clone()
    save_blank(tmp_path / "r0.pt")
    continue_classifier(tmp_path / "r0.pt", other)
    torch.testing.assert_close(other.fc.weight, weight, rtol=0, atol=0)
    continue_classifier(save(tmp_path / "r1.pt", classifier), other)
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0)


def test_a_classifier_of_another_shape_is_refused(tmp_path, classifier):
    with pytest.raises(AepslError, match="expected the trunk and the classes of the network"):
        continue_classifier(save(tmp_path / "r1.pt", classifier), Classifier(trunk(SMALL), 3))
    segmenter = Segmenter(trunk(SMALL), 2, with_classification=False)
    with pytest.raises(AepslError, match="expected a Classifier or Blank of format 1, found Segmenter"):
        continue_classifier(save(tmp_path / "s1.pt", segmenter), classifier)
    save_blank(tmp_path / "r0.pt")
    with pytest.raises(AepslError, match="expected a Classifier of format 1, found Blank"):
        load_classifier(tmp_path / "r0.pt", CPU)


@pytest.mark.parametrize("with_classification", [True, False])
def test_a_segmenter_starts_from_the_trunk_and_the_last_layer_of_a_classifier(tmp_path, classifier, with_classification):
    classifier.trunk.preprocessing = "caffe"
    path = save(tmp_path / "r1.pt", classifier)
    classifier.trunk.preprocessing = "imagenet"
    model = Segmenter(trunk(SMALL), 2, with_classification=with_classification, generator=torch.Generator().manual_seed(3))
    head = model.segment.weight.detach().clone()
    start_from_classifier(path, model)
    assert model.trunk.preprocessing == "caffe"
    assert torch.equal(model.segment.weight, head)
    images = torch.randn(1, 3, 33, 49, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(model.trunk.eval()(images), classifier.trunk.eval()(images))
        if model.classify is not None:
            torch.testing.assert_close(model.eval()(images)[1], classifier.eval()(images))


def test_a_segmenter_with_another_trunk_cannot_start_from_a_classifier(tmp_path, classifier):
    with pytest.raises(AepslError, match=r"give classify\.network and segment\.network the same trunk"):
        start_from_classifier(save(tmp_path / "r1.pt", classifier), Segmenter(trunk(WHOLE), 2, with_classification=True))


@pytest.mark.parametrize("with_classification", [True, False])
def test_a_segmenter_comes_back_with_the_branch_it_had(tmp_path, with_classification):
    model = Segmenter(trunk(WHOLE), 2, with_classification=with_classification, generator=torch.Generator().manual_seed(1)).eval()
    model.trunk.preprocessing = "caffe"
    loaded, _ = load_segmenter(save(tmp_path / "s1.pt", model, WHOLE), CPU)
    assert (loaded.trunk.output_stride, loaded.trunk.preprocessing) == (8, "caffe")
    images = torch.randn(1, 3, 33, 49, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        for expected, found in zip(model(images), loaded(images), strict=True):
            assert (expected is None) == (found is None)
            if expected is not None:
                torch.testing.assert_close(found, expected)


def test_equal_tensors_give_equal_bytes_whatever_the_name_and_the_memory_layout(tmp_path, classifier):
    first = save(tmp_path / "r1.pt", classifier).read_bytes()
    loaded, _ = load_classifier(tmp_path / "r1.pt", CPU)
    assert next(loaded.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert save(tmp_path / "another name.pt", loaded).read_bytes() == first
    assert sorted(os.listdir(tmp_path)) == ["another name.pt", "r1.pt"]


def test_a_model_of_the_other_kind_is_refused(tmp_path, classifier):
    with pytest.raises(AepslError, match=r"r1\.pt: expected a Segmenter of format 1, found Classifier"):
        load_segmenter(save(tmp_path / "r1.pt", classifier), CPU)


@pytest.mark.parametrize("content", [{"state": {}}, {"format": 2, "kind": "Classifier"}, [1], torch.zeros(2)])
def test_a_file_of_another_program_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "r1.pt")
    with pytest.raises(AepslError, match=r"r1\.pt: expected a Classifier of format 1, found"):
        load_classifier(tmp_path / "r1.pt", CPU)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x80\x02.", b"PK\x03\x04", bytes(1000)])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "r1.pt").write_bytes(content)
    with pytest.raises(AepslError, match=r"r1\.pt: expected a model file of this project, found a damaged or foreign one"):
        load_classifier(tmp_path / "r1.pt", CPU)


@pytest.mark.parametrize(("content", "told"), [
    (b"\xff\xd8\xff\xe0 a photograph", "one that torch.save did not write"), (b"in the beginning\n", "one that torch.save did not write"),
    (torch.nn.Linear(1, 1), "with more in it than tensors and plain values")])
def test_what_is_no_model_is_told_without_the_advice_to_read_it_unprotected(tmp_path, content, told):
    if isinstance(content, bytes):
        (tmp_path / "r1.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "r1.pt")
    with pytest.raises(AepslError, match=rf"expected a model file of this project, found a damaged or foreign one \(.*{told}\)") as caught:
        load_classifier(tmp_path / "r1.pt", CPU)
    assert "weights_only" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AepslError, match=r"r1\.pt: no such file"):
        load_classifier(tmp_path / "r1.pt", CPU)


def test_a_model_cut_anywhere_is_refused(tmp_path, classifier):
    whole = save(tmp_path / "r1.pt", classifier).read_bytes()
    for length in (1, 100, len(whole) // 2, len(whole) - 23, len(whole) - 1):
        (tmp_path / "r1.pt").write_bytes(whole[:length])
        with pytest.raises(AepslError, match="damaged"):
            load_classifier(tmp_path / "r1.pt", CPU)


def test_a_flipped_bit_never_changes_a_weight_unnoticed(tmp_path, classifier):
    path = tmp_path / "r1.pt"
    whole = save(path, classifier).read_bytes()
    state = classifier.state_dict()
    refusals = []
    for number, place in enumerate(range(0, len(whole), len(whole) // 40)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << number % 8]) + whole[place + 1:])
        try:
            loaded, _ = load_classifier(path, CPU)
            assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
        except AepslError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert all("r1.pt: expected a model file of this project" in message for message in refusals)


class Hostile:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path, zipped):
    content = {"format": 1, "kind": "Classifier", "facts": Hostile(tmp_path / "owned")}
    if zipped:
        torch.save(content, tmp_path / "r1.pt")
    else:
        (tmp_path / "r1.pt").write_bytes(pickle.dumps(content))
    with pytest.raises(AepslError, match="damaged or foreign"):
        load_classifier(tmp_path / "r1.pt", CPU)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(("change", "said"), [
    ({"format": True}, "expected a Classifier of format 1"), ({"format": torch.zeros(2)}, "expected a Classifier of format 1"),
    ({"kind": ["Classifier"]}, "expected a Classifier"),
    ({"network": None}, "found another: network None"), ({"network": {"trunk": "vgg16"}}, "network {'trunk': 'vgg16'}"),
    ({"preprocessing": "own"}, "preprocessing 'own'"),
    ({"classes": []}, r"classes \[\]"), ({"classes": ["a"] * 255}, "classes"), ({"classes": "ab"}, "classes 'ab'"), ({"facts": 3}, "facts 3"),
    ({"state": [1]}, "a state that is no table"),
    ({"state": {"a": 1}}, "'a': expected a tensor, found int"), ({"state": {"a": torch.zeros(2).to_sparse()}}, "'a': expected a plain tensor"),
    ({"state": {}}, "expected the tensors of its own"),
    ({"network": {"trunk": "squeezenet", "output_stride": 8, "width": 1, "stages": None}}, r"network\.trunk: expected one of"),
    ({"classes": ["a"] * 3}, "size mismatch")])
def test_a_model_of_other_content_is_refused_by_name(tmp_path, classifier, change, said):
    content = torch.load(save(tmp_path / "r1.pt", classifier), weights_only=True)
    torch.save(content | change, tmp_path / "r1.pt")
    with pytest.raises(AepslError, match=rf"(?s)r1\.pt: .*{said}.*run the stage that makes it again"):
        load_classifier(tmp_path / "r1.pt", CPU)


def test_a_model_that_diverged_is_refused(tmp_path, classifier):
    content = torch.load(save(tmp_path / "r1.pt", classifier), weights_only=True)
    content["state"]["fc.bias"][0] = float("nan")
    torch.save(content, tmp_path / "r1.pt")
    for load in (lambda: load_classifier(tmp_path / "r1.pt", CPU), lambda: continue_classifier(tmp_path / "r1.pt", Classifier(trunk(SMALL), 2))):
        with pytest.raises(AepslError, match=r"r1\.pt: expected finite numbers, found NaN or infinity in fc\.bias"):
            load()


def test_a_fact_that_a_model_does_not_tell_is_named(tmp_path, classifier):
    _, content = load_classifier(save(tmp_path / "r1.pt", classifier), CPU)
    with pytest.raises(AepslError, match=r"r1\.pt: expected a model that tells its scale, found 'round', 'final_loss', 'list'; run the stage"):
        content["facts"]["scale"]


def test_compressed_entries_are_not_unpacked(tmp_path, classifier):
    whole = save(tmp_path / "r1.pt", classifier).read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(tmp_path / "r1.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(AepslError, match=r"compressed entries, which torch\.save does not write"):
        load_classifier(tmp_path / "r1.pt", CPU)


def test_what_is_no_file_is_named_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    for name in ("pipe.pt", "."):
        with pytest.raises(AepslError, match="something else that is no file"):
            load_classifier(tmp_path / name, CPU)
