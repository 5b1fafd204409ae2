"""The five kinds of published weights, by generated files with every key and shape of the real ones: strict loading, decimation, preprocessing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, VGG16_Weights

from aepsl.errors import FaultList
from aepsl.networks.trunks import PREPROCESSING, build_trunk, normalise
from aepsl.networks.weights import IMAGENET_FILES, StartingWeights, starting_weights

State = dict[str, Tensor]
LAYERS = [f"conv{stage}_{number}" for stage, count in enumerate((2, 2, 3, 3, 3), 1) for number in range(1, count + 1)]


def constant(value: float, shape: tuple[int, ...]) -> Tensor:
    """A tensor of any size whose file holds one number."""
    return torch.tensor(float(value)).expand(shape)


def of_torchvision(name: str) -> State:
    """Every key of torchvision's network; the n-th tensor holds n."""
    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
    return {key: constant(number, tuple(value.shape)) if value.is_floating_point() else torch.tensor(number)
            for number, (key, value) in enumerate(state.items())}


def original_scaling() -> State:
    return {key: constant(float("nan"), tuple(value.shape)) if key.startswith("classifier.") else value
            for key, value in of_torchvision("vgg16").items()}


def decimated() -> State:
    convs = {key.removeprefix("features."): value for key, value in of_torchvision("vgg16").items() if key.startswith("features.")}
    return convs | {"31.weight": constant(26, (1024, 512, 3, 3)), "31.bias": constant(27, (1024,)),
                    "33.weight": constant(28, (1024, 1024, 1, 1)), "33.bias": constant(29, (1024,))}


KINDS: dict[str, tuple[str, Callable[[], State]]] = {
    "torchvision vgg16": ("vgg16", lambda: of_torchvision("vgg16")),
    "original scaling": ("vgg16", original_scaling), "decimated": ("vgg16", decimated),
    "mobilenet_v2": ("mobilenet_v2", lambda: of_torchvision("mobilenet_v2")), "resnet50": ("resnet50", lambda: of_torchvision("resnet50"))}


def read(folder: Path, trunk: str, state: State) -> StartingWeights:
    torch.save(state, folder / "some.pth")
    assert (folder / "some.pth").stat().st_size < 1e6
    return starting_weights(trunk, str(folder / "some.pth"), width=1, cache=folder)


def keys(trunk: str) -> list[str]:
    with torch.device("meta"):
        return list(build_trunk(trunk, output_stride=8, width=1).state_dict())


# --- which tensor goes where, and with which preprocessing

@pytest.mark.parametrize(("kind", "preprocessing", "fresh"), [
    ("torchvision vgg16", "imagenet", 0), ("original scaling", "caffe", 4), ("decimated", "caffe", 0), ("mobilenet_v2", "imagenet", 0),
    ("resnet50", "imagenet", 0)])
def test_every_published_file_is_known_by_its_keys_and_brings_its_preprocessing(tmp_path: Path, kind: str, preprocessing: str, fresh: int) -> None:
    trunk, make = KINDS[kind]
    found = read(tmp_path, trunk, make())
    assert (found.preprocessing, len(found.fresh)) == (preprocessing, fresh)
    assert [*found.state, *found.fresh] == keys(trunk)


@pytest.mark.parametrize("kind", ["torchvision vgg16", "original scaling", "decimated"])
def test_every_convolution_of_vgg16_finds_its_layer(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, *(part if isinstance(part, str) else part() for part in KINDS[kind]))
    for number, name in enumerate(f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")):
        assert found.state[name].unique().tolist() == [number]


def test_the_decimated_file_holds_fc6_and_fc7_as_they_are(tmp_path: Path) -> None:
    found = read(tmp_path, "vgg16", decimated())
    assert [found.state[name].unique().item() for name in ("fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias")] == [26, 27, 28, 29]


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_every_tensor_of_the_other_networks_keeps_its_key(tmp_path: Path, name: str) -> None:
    published = of_torchvision(name)
    for key, value in read(tmp_path, name, published).state.items():
        assert torch.equal(value, published[key].to(value.dtype))


# --- decimation, element by element

def numbered(shape: tuple[int, int], *, rows: bool) -> Tensor:
    """A matrix that holds the number of the row, or of the column, of each of its elements."""
    count = torch.arange(shape[0] if rows else shape[1], dtype=torch.float32)
    return (count[:, None] if rows else count[None]).expand(shape)


@pytest.mark.parametrize("rows", [True, False], ids=["output units", "input units"])
def test_decimation_keeps_every_fourth_unit_and_rows_and_columns_0_3_and_6_of_the_window(tmp_path: Path, rows: bool) -> None:
    state = of_torchvision("vgg16") | {
        "classifier.0.weight": numbered((4096, 25088), rows=rows), "classifier.0.bias": torch.arange(4096.0),
        "classifier.3.weight": numbered((4096, 4096), rows=rows), "classifier.3.bias": torch.arange(4096.0) + 0.5}
    found = read(tmp_path, "vgg16", state).state
    units = 4 * torch.arange(1024.0)
    # torchvision flattens (512, 7, 7): element (channel, row, column) is input 49 · channel + 7 · row + column.
    channel, row, column = torch.meshgrid(49 * torch.arange(512.0), 7 * torch.tensor([0.0, 3, 6]), torch.tensor([0.0, 3, 6]), indexing="ij")
    fc6 = units[:, None, None, None] if rows else (channel + row + column)[None]
    assert torch.equal(found["fc6.weight"], fc6.expand(1024, 512, 3, 3))
    fc7 = units[:, None] if rows else units[None]
    assert torch.equal(found["fc7.weight"], fc7.expand(1024, 1024)[..., None, None])
    assert torch.equal(found["fc6.bias"], units)
    assert torch.equal(found["fc7.bias"], units + 0.5)


# --- strictness

def misfits(tmp_path: Path, trunk: str, state: State) -> list[str]:
    with pytest.raises(FaultList) as caught:
        read(tmp_path, trunk, state)
    assert "some.pth" in str(caught.value)
    return caught.value.faults


@pytest.mark.parametrize(("kind", "key", "fault"), [
    ("torchvision vgg16", "features.28.bias", "conv5_3.bias: missing, expected (512,)"),
    ("torchvision vgg16", "classifier.0.weight", "classifier.0.weight: expected (4096, 25088), found none"),
    ("torchvision vgg16", "classifier.3.bias", "classifier.3.bias: expected (4096,), found none"),
    ("original scaling", "features.5.weight", "conv2_1.weight: missing, expected (128, 64, 3, 3)"),
    ("decimated", "10.weight", "conv3_1.weight: missing, expected (256, 128, 3, 3)"),
    ("decimated", "31.weight", "fc6.weight: missing, expected (1024, 512, 3, 3)"),
    ("decimated", "33.weight", "fc7.weight: missing, expected (1024, 1024, 1, 1)"),
    ("mobilenet_v2", "features.4.conv.1.1.running_var", "features.4.conv.1.1.running_var: missing, expected (144,)"),
    ("resnet50", "layer3.0.downsample.0.weight", "layer3.0.downsample.0.weight: missing, expected (1024, 512, 1, 1)"),
])
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, kind: str, key: str, fault: str) -> None:
    trunk, make = KINDS[kind]
    state = make()
    del state[key]
    assert misfits(tmp_path, trunk, state) == [fault]


@pytest.mark.parametrize(("kind", "key"), [
    ("torchvision vgg16", "features.30.weight"), ("torchvision vgg16", "classifier.9.bias"), ("original scaling", "extra"),
    ("decimated", "35.weight"), ("mobilenet_v2", "features.19.0.weight"), ("resnet50", "layer5.0.conv1.weight")])
def test_a_tensor_too_many_is_refused_by_name(tmp_path: Path, kind: str, key: str) -> None:
    trunk, make = KINDS[kind]
    assert misfits(tmp_path, trunk, make() | {key: torch.zeros(1)}) == [f"{key}: unexpected"]


@pytest.mark.parametrize(("kind", "key", "shape", "fault"), [
    ("torchvision vgg16", "features.0.weight", (64, 4, 3, 3), "conv1_1.weight: expected (64, 3, 3, 3), found (64, 4, 3, 3)"),
    ("torchvision vgg16", "classifier.3.weight", (4096, 4095), "classifier.3.weight: expected (4096, 4096), found (4096, 4095)"),
    ("original scaling", "features.2.bias", (65,), "conv1_2.bias: expected (64,), found (65,)"),
    ("decimated", "31.weight", (1024, 512, 7, 7), "fc6.weight: expected (1024, 512, 3, 3), found (1024, 512, 7, 7)"),
    ("decimated", "33.weight", (1024, 1024), "fc7.weight: expected (1024, 1024, 1, 1), found (1024, 1024)"),
    ("mobilenet_v2", "features.18.0.weight", (1280, 160, 1, 1), "features.18.0.weight: expected (1280, 320, 1, 1), found (1280, 160, 1, 1)"),
    ("resnet50", "conv1.weight", (64, 3, 3, 3), "conv1.weight: expected (64, 3, 7, 7), found (64, 3, 3, 3)")])
def test_a_tensor_of_another_shape_is_refused_by_name(tmp_path: Path, kind: str, key: str, shape: tuple[int, ...], fault: str) -> None:
    trunk, make = KINDS[kind]
    assert misfits(tmp_path, trunk, make() | {key: constant(0, shape)}) == [fault]


# --- what torchvision says of its own files

@pytest.mark.parametrize(("name", "weights"), [
    ("vgg16", VGG16_Weights.IMAGENET1K_V1), ("mobilenet_v2", MobileNet_V2_Weights.IMAGENET1K_V1), ("resnet50", ResNet50_Weights.IMAGENET1K_V1)])
def test_imagenet_files_and_their_preprocessing_are_those_torchvision_names(name: str, weights: VGG16_Weights) -> None:
    assert weights.url == f"https://download.pytorch.org/models/{IMAGENET_FILES[name]}"
    picture = torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalise(picture, "imagenet"), weights.transforms(resize_size=224)(picture))


def test_original_scaling_is_torchvisions_within_a_grey_level_but_for_the_order_of_the_channels() -> None:
    # torchvision's transform leaves the channels red first; ours puts them blue first, as the Caffe model was trained. Unverified on the file itself.
    published = VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    mean, std, bgr = PREPROCESSING["caffe"]
    assert bgr
    assert std == pytest.approx(published.std)
    assert [255 * value for value in mean] == pytest.approx([255 * value for value in published.mean], abs=1)
