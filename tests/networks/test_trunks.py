"""Trunks: DeepLab's geometry layer by layer, grids, receptive field, dense evaluation, initialisation, input scaling."""

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from aepsl.errors import AepslError
from aepsl.networks.trunks import PREPROCESSING, Trunk, build_trunk, normalise, scaled

NAMES = ["vgg16", "mobilenet_v2", "resnet50"]
NARROW = {"vgg16": 0.02, "mobilenet_v2": 0.1, "resnet50": 0.05}


def narrow(name: str, output_stride: int) -> Trunk:
    return build_trunk(name, output_stride=output_stride, width=NARROW[name], generator=torch.Generator().manual_seed(0)).eval()


def windows(trunk: nn.Module) -> list[tuple[Any, ...]]:
    """(name, kernel, stride, dilation, padding) of every layer with a window; one of a single pixel has no dilation to speak of."""
    found: list[tuple[Any, ...]] = []
    for name, layer in trunk.named_children():
        if isinstance(layer, nn.Conv2d):
            dilation = layer.dilation[0] if layer.kernel_size[0] > 1 else 1
            found.append((name, layer.kernel_size[0], layer.stride[0], dilation, layer.padding[0]))
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            found.append((name, layer.kernel_size, layer.stride, 1, layer.padding))
    return found


def test_large_fov_has_deeplabs_layers() -> None:
    expected = [
        ("conv1_1", 3, 1, 1, 1), ("conv1_2", 3, 1, 1, 1), ("pool1", 3, 2, 1, 1),
        ("conv2_1", 3, 1, 1, 1), ("conv2_2", 3, 1, 1, 1), ("pool2", 3, 2, 1, 1),
        ("conv3_1", 3, 1, 1, 1), ("conv3_2", 3, 1, 1, 1), ("conv3_3", 3, 1, 1, 1), ("pool3", 3, 2, 1, 1),
        ("conv4_1", 3, 1, 1, 1), ("conv4_2", 3, 1, 1, 1), ("conv4_3", 3, 1, 1, 1), ("pool4", 3, 1, 1, 1),
        ("conv5_1", 3, 1, 2, 2), ("conv5_2", 3, 1, 2, 2), ("conv5_3", 3, 1, 2, 2), ("pool5", 3, 1, 1, 1),
        ("pool5a", 3, 1, 1, 1), ("fc6", 3, 1, 12, 12), ("fc7", 1, 1, 1, 0),
    ]  # fmt: skip
    trunk = build_trunk("vgg16", output_stride=8, width=0.02)
    assert windows(trunk) == expected
    assert isinstance(trunk.pool5a, nn.AvgPool2d)
    assert [layer.p for layer in trunk.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def test_large_fov_has_vggs_channels_at_width_one() -> None:
    with torch.device("meta"):
        trunk = build_trunk("vgg16", output_stride=8, width=1)
    channels = [layer.out_channels for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    assert channels == [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
    assert trunk.channels == 1024
    assert sum(parameter.numel() for parameter in trunk.parameters()) == 14_714_688 + 512 * 9 * 1024 + 1024 + 1024 * 1024 + 1024


def test_large_fov_receptive_field_is_435_pixels() -> None:
    field, jump = 1, 1
    for _, kernel, stride, dilation, _ in windows(build_trunk("vgg16", output_stride=8, width=0.02)):
        field += (kernel - 1) * dilation * jump
        jump *= stride
    assert (field, jump) == (435, 8)


def test_large_fov_sees_exactly_its_receptive_field() -> None:
    trunk = narrow("vgg16", 8)
    for layer in trunk.modules():  # positive weights and an average for each maximum: every pixel in the field leaves a trace
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
    for name, layer in list(trunk.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(trunk, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
    trunk = trunk.double()
    image = torch.ones(1, 3, 1, 449, dtype=torch.float64).requires_grad_()  # one row is enough
    features = trunk(image)
    features[0, 0, 0, 28].backward()  # the cell centred on pixel 224
    assert image.grad is not None
    seen = image.grad[0, 0, 0].nonzero()[:, 0]
    assert (seen.min().item(), seen.max().item()) == (224 - 217, 224 + 217)


def test_a_crop_of_321_pixels_has_41_cells() -> None:
    assert narrow("vgg16", 8)(torch.zeros(1, 3, 321, 321)).shape[2:] == (41, 41)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(65, 97), (64, 50), (33, 71), (7, 1)])
def test_the_grid_has_a_cell_for_every_stride_pixels_begun(name: str, stride: int, size: tuple[int, int]) -> None:
    trunk = narrow(name, stride)
    assert trunk.output_stride == stride
    with torch.no_grad():
        features = trunk(torch.zeros(2, 3, *size))
    assert features.shape == (2, trunk.channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dense_networks_agree_with_torchvisions_at_stride_32(name: str, stride: int) -> None:
    trunk = build_trunk(name, output_stride=stride, width=1, generator=torch.Generator().manual_seed(0)).eval()
    plain = torchvision.models.get_model(name).eval()
    missing, unexpected = plain.load_state_dict(trunk.state_dict(), strict=False)
    assert unexpected == []
    assert set(missing) == ({"classifier.1.weight", "classifier.1.bias"} if name == "mobilenet_v2" else {"fc.weight", "fc.bias"})
    body = plain.features if name == "mobilenet_v2" else nn.Sequential(*list(plain.children())[:-2])
    image = torch.rand(1, 3, 97, 130, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        dense, sparse = trunk(image)[:, :, :: 32 // stride, :: 32 // stride], body(image)
    assert dense.shape == sparse.shape
    assert sparse.std() > 1e-3
    torch.testing.assert_close(dense, sparse, rtol=1e-3, atol=1e-4 * sparse.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_stride_16_leaves_the_keys_and_shapes_of_stride_8(name: str) -> None:
    states = [{key: value.shape for key, value in narrow(name, stride).state_dict().items()} for stride in (8, 16)]
    assert states[0] == states[1]


def test_stride_16_large_fov_halves_the_dilations_behind_pool4() -> None:
    changed = {name: (stride, dilation) for name, _, stride, dilation, _ in windows(narrow("vgg16", 16))}
    assert (changed["pool4"], changed["conv5_1"], changed["fc6"]) == ((2, 1), (1, 1), (1, 6))


def test_width_scales_channels_in_multiples_of_eight() -> None:
    assert [scaled(64, 1), scaled(64, 0.5), scaled(64, 0.25), scaled(64, 0.01), scaled(24, 0.75)] == [64, 32, 16, 8, 24]
    widths = {name: [build_trunk(name, output_stride=8, width=width).channels for width in (0.5, 0.25)] for name in NAMES}
    assert widths == {"vgg16": [512, 256], "mobilenet_v2": [640, 320], "resnet50": [1024, 512]}


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_follow_the_generator_alone(name: str) -> None:
    first = narrow(name, 8).state_dict()
    torch.manual_seed(99)
    second = narrow(name, 8).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_random_weights_keep_the_signal_alive_and_train(name: str) -> None:
    trunk = build_trunk(name, output_stride=8, width=0.125, generator=torch.Generator().manual_seed(0)).train()
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    features = trunk(images)
    assert 1e-3 < features.std().item() < 1e3
    features.square().mean().backward()
    first = next(trunk.parameters())
    assert first.grad is not None
    assert 0 < first.grad.norm().item() < float("inf")


@pytest.mark.parametrize(
    ("name", "stride", "width", "key"),
    [("vgg19", 8, 1, "trunk"), ("vgg16", 32, 1, "output_stride"), ("vgg16", 8, 0, "width"), ("vgg16", 8, 2, "width")],
)
def test_impossible_trunks_are_refused_by_name(name: str, stride: int, width: float, key: str) -> None:
    with pytest.raises(AepslError, match=f"network.{key}: expected"):
        build_trunk(name, output_stride=stride, width=width)


def test_normalising_by_hand() -> None:
    image = torch.tensor([255, 0, 128], dtype=torch.uint8)[:, None, None]
    red, green, blue = normalise(image, "imagenet").ravel().tolist()
    assert (red, green, blue) == pytest.approx(((1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225), rel=1e-5)
    # Blue first, grey levels less the mean.
    assert normalise(image, "caffe").ravel().tolist() == pytest.approx([128 - 103.939, -116.779, 255 - 123.68], rel=1e-5)


@pytest.mark.parametrize("name", list(PREPROCESSING))
def test_normalising_a_batch_equals_normalising_its_images(name: str) -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = normalise(images, name)
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([normalise(image, name) for image in images]))


def test_normalising_refuses_scaled_images() -> None:
    with pytest.raises(ValueError, match="uint8"):
        normalise(torch.zeros(3, 4, 4), "imagenet")


@pytest.mark.parametrize(("name", "frozen"), [
    ("vgg16", {"conv1_1", "conv1_2", "conv2_1", "conv2_2"}),
    ("mobilenet_v2", {"features.0", "features.1", "features.2", "features.3"}),
    ("resnet50", {"conv1", "bn1", "layer1", "layer2"}),
])
def test_frozen_stages_neither_learn_nor_measure(name, frozen):
    trunk = build_trunk(name, output_stride=16, width=0.1)
    trunk.freeze(2)
    trunk.train()
    for key, parameter in trunk.named_parameters():
        assert parameter.requires_grad != key.startswith(tuple(f"{layer}." for layer in frozen)), key
    before = {key: value.clone() for key, value in trunk.state_dict().items() if "running" in key}
    trunk(torch.rand(2, 3, 33, 33, generator=torch.Generator().manual_seed(0)))
    for key, value in before.items():
        assert torch.equal(value, trunk.state_dict()[key]) == key.startswith(tuple(f"{layer}." for layer in frozen)), key


def test_no_stage_is_frozen_unless_asked_for():
    trunk = build_trunk("mobilenet_v2", output_stride=16, width=0.1)
    trunk.freeze(0)
    assert all(parameter.requires_grad for parameter in trunk.parameters())
    assert all(module.training for module in trunk.modules())
