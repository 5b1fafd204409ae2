"""DeepLab-LargeFOV at output stride 8 and full width, layer by layer (its arithmetic on the meta device: shapes without memory)."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from aepsl.networks.classifier import Classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, build_trunk

STAGES = [(1, 2, 64), (2, 2, 128), (3, 3, 256), (4, 3, 512), (5, 3, 512)]


def full() -> Trunk:
    with torch.device("meta"):
        return build_trunk("vgg16", output_stride=8, width=1)


def narrow() -> Trunk:
    return build_trunk("vgg16", output_stride=8, width=0.02, generator=torch.Generator().manual_seed(0)).eval()


def described(layer: nn.Module) -> tuple[object, ...]:
    """Kind, channels, kernel, stride, padding, dilation, each for rows and columns; that of a single pixel counts as 1, whatever it is."""
    if isinstance(layer, nn.Conv2d):
        assert (layer.groups, layer.bias is not None, layer.padding_mode) == (1, True, "zeros")
        dilation = layer.dilation if layer.kernel_size != (1, 1) else (1, 1)
        return "conv", layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, dilation
    if isinstance(layer, nn.MaxPool2d):
        return "max", layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.ceil_mode
    if isinstance(layer, nn.AvgPool2d):
        return "mean", layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad
    return ("dropout", layer.p) if isinstance(layer, nn.Dropout) else (type(layer).__name__.lower(),)


def conv(before: int, after: int, kernel: int, dilation: int) -> tuple[object, ...]:
    padding = dilation * (kernel // 2)
    return "conv", before, after, (kernel, kernel), (1, 1), (padding, padding), (dilation, dilation)


def test_every_layer_in_order() -> None:
    expected: list[tuple[object, ...]] = []
    before = 3
    for stage, count, channels in STAGES:
        for _ in range(count):
            expected += [conv(before, channels, 3, 2 if stage == 5 else 1), ("relu",)]
            before = channels
        expected.append(("max", 3, 2 if stage <= 3 else 1, 1, 1, False))
    expected += [("mean", 3, 1, 1, False, True),
                 conv(512, 1024, 3, 12), ("relu",), ("dropout", 0.5),
                 conv(1024, 1024, 1, 1), ("relu",), ("dropout", 0.5)]
    assert [described(layer) for layer in full().children()] == expected


def test_a_batch_of_the_paper_gives_41_by_41_cells_and_20_classes() -> None:
    with torch.device("meta"):
        images = torch.empty(30, 3, 321, 321)
        segmenter, classifier = Segmenter(full(), 20, with_classification=True), Classifier(full(), 20)
        scores, class_scores = segmenter(images)
        assert segmenter.trunk(images).shape == (30, 1024, 41, 41)
        assert (scores.shape, class_scores.shape) == ((30, 21, 41, 41), (30, 20))
        assert (classifier(images).shape, classifier.heatmaps(images).shape) == ((30, 20), (30, 20, 41, 41))


def test_the_network_has_deeplabs_20_5_million_parameters() -> None:
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * before * after + after for before, after in pairwise(channels))
    dense = 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024
    with torch.device("meta"):
        model = Segmenter(full(), 20, with_classification=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + dense + 21 * 1024 + 21 == 20_505_429


@pytest.mark.parametrize("along", ["rows", "columns"])
def test_the_receptive_field_by_gradient_is_435_pixels_centred_on_8_times_the_cell(along: str) -> None:
    trunk = narrow()
    for name, layer in list(trunk.named_children()):  # positive weights, a mean for each maximum: every pixel of the field leaves a trace
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 1.0 / layer.weight[0].numel())
        elif isinstance(layer, nn.MaxPool2d):
            setattr(trunk, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
    image = torch.ones(1, 3, *((481, 1) if along == "rows" else (1, 481)), dtype=torch.float64).requires_grad_()
    cells = trunk.double()(image).flatten()  # channels × 61 cells
    for cell in (28, 30, 32):
        [gradient] = torch.autograd.grad(cells[cell], image, retain_graph=True)
        seen = gradient[0, 0].flatten().nonzero()[:, 0]
        assert (seen[0].item(), seen[-1].item()) == (8 * cell - 217, 8 * cell + 217)


def test_pools_that_round_up_as_caffes_do_change_nothing_at_multiples_of_8_plus_1() -> None:
    rounding_down, rounding_up = narrow(), narrow()
    for layer in rounding_up.children():
        if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            layer.ceil_mode = True
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for size in ((41, 65), (9, 1), (33, 73)):
            image = torch.randn(1, 3, *size, generator=generator)
            assert torch.equal(rounding_down(image), rounding_up(image))
        odd = torch.randn(1, 3, 40, 66, generator=generator)
        assert rounding_down(odd).shape[2:] == (5, 9)
        assert rounding_up(odd).shape[2:] != (5, 9)


def test_pool5a_counts_the_zeros_of_its_padding_as_caffe_does() -> None:
    pool = full().get_submodule("pool5a")
    assert pool(torch.full((1, 1, 3, 4), 9.0)).tolist() == [[[[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]]]


def test_the_maxima_never_see_their_padding() -> None:
    pool = full().get_submodule("pool1")
    assert pool(torch.tensor([[[[-5.0, -1, -2], [-3, -4, -6], [-9, -8, -7]]]])).tolist() == [[[[-1, -1], [-3, -4]]]]


def test_half_of_fc6_and_fc7_drops_out_in_training_alone() -> None:
    trunk = build_trunk("vgg16", output_stride=8, width=0.5, generator=torch.Generator().manual_seed(0))
    for name in ("drop6", "drop7"):
        dropout = trunk.get_submodule(name)
        torch.manual_seed(0)
        found = dropout(torch.ones(1, 512, 9, 9))
        assert found.unique().tolist() == [0, 2]
        assert (found == 0).float().mean().item() == pytest.approx(0.5, abs=0.02)
        assert dropout.eval()(torch.ones(2)).tolist() == [1, 1]
