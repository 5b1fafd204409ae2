"""Trunks: normalised images to feature maps, on a grid of one cell every 8 or 16 pixels.

DeepLab-LargeFOV (the paper's trunk, section 3.1 there) and, for small data and processors, MobileNetV2 and ResNet-50 made dense
by dilation, in torchvision's keys but without torchvision, whose import takes longer than torch's own. In all three every strided
layer centres its window, so cell (i, j) is centred on pixel (stride·i, stride·j) and a side of H pixels has ceil(H / stride) cells.
Nothing here loads weights: see ``weights``.
"""

import math
from collections import OrderedDict
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aepsl.errors import AepslError


class Preprocessing(NamedTuple):
    """What weights expect of their input: (RGB / 255 − mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool  # channels in the order blue, green, red


PREPROCESSING: dict[str, Preprocessing] = {
    "imagenet": Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False),
    # The original VGG16: grey levels 0..255 less the mean pixel, so std is 1/255 on the 0..1 scale.
    "caffe": Preprocessing((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255), bgr=True),
}


def normalise(images: Tensor, preprocessing: str) -> Tensor:
    """Images (B, 3, H, W) or (3, H, W) uint8 RGB to float32 on the same device, scaled as the weights expect."""
    if images.dtype != torch.uint8 or images.shape[-3] != 3:
        raise ValueError(f"expected images (…, 3, H, W) uint8, got {tuple(images.shape)} {images.dtype}")
    shift, scale = _shift_and_scale(PREPROCESSING[preprocessing], images.device)
    scaled = (images.float() - shift) / scale
    return scaled.flip(-3) if PREPROCESSING[preprocessing].bgr else scaled


@lru_cache(8)  # sending them to a GPU waits until it has done what it was asked before
def _shift_and_scale(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        mean, std, _ = preprocessing
        return torch.tensor(mean, device=device).mul(255)[:, None, None], torch.tensor(std, device=device).mul(255)[:, None, None]


def resized(inputs: Tensor, scale: float) -> Tensor:
    """A batch (B, 3, H, W) resized bilinearly, sides rounded; itself where that changes nothing."""
    before = inputs.shape[-2:]
    size = [max(1, round(side * scale)) for side in before]
    return inputs if size == list(before) else F.interpolate(inputs, size, mode="bilinear", align_corners=False)


class Trunk(nn.Module):
    """Images (B, 3, H, W) float32, normalised → features (B, channels, ceil(H / output_stride), ceil(W / output_stride))."""

    name: str
    stages: int  # how many there are in the whole network
    channels: int
    output_stride: int
    preprocessing: str = "imagenet"  # a key of PREPROCESSING; belongs to the weights, so weights.load_into sets it
    frozen: tuple[nn.Module, ...] = ()

    def first_stages(self, count: int) -> tuple[nn.Module, ...]:
        """The layers of the first ``count`` stages, whatever comes before the first one included."""
        raise NotImplementedError

    def freeze(self, count: int) -> None:
        """Keep the first ``count`` stages as they are: their weights do not learn and their batch norm keeps its statistics.

        The first layers cost most, for they work at full resolution, and change least.
        """
        self.frozen = self.first_stages(count) if count else ()
        for layer in self.frozen:
            layer.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self


def scaled(channels: int, width: float) -> int:
    """``channels · width`` as a multiple of 8, at least 8; never more than a tenth below what was asked for."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8


class LargeFov(Trunk, nn.Sequential):
    """VGG16 as DeepLab-LargeFOV: five stages of 3×3 convolutions, fc6 with dilation 12, fc7; receptive field 435 pixels.

    Output stride 8 is DeepLab's. Output stride 16 is a variant of this project: pool4 keeps its stride of 2, and conv5 and
    fc6 have half the dilation, so they look as far in pixels at a quarter of the cells. Pools round down, where
    Caffe rounds up; on DeepLab's own sizes (321, 513: multiples of 8, plus 1) both give the same.
    """

    name = "vgg16"
    stages = 5

    def __init__(self, *, output_stride: int, width: float, stages: int) -> None:
        dense = output_stride == 8
        plan = [(2, 64, 2, 1), (2, 128, 2, 1), (3, 256, 2, 1), (3, 512, 1 if dense else 2, 1), (3, 512, 1, 2 if dense else 1)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        before = 3
        for stage, (count, channels, stride, dilation) in enumerate(plan[:stages], 1):
            for index in range(1, count + 1):
                after = scaled(channels, width)
                layers[f"conv{stage}_{index}"] = nn.Conv2d(before, after, 3, padding=dilation, dilation=dilation)
                layers[f"relu{stage}_{index}"] = nn.ReLU(inplace=True)
                before = after
            layers[f"pool{stage}"] = nn.MaxPool2d(3, stride, padding=1)
        layers["pool5a"] = nn.AvgPool2d(3, 1, padding=1)  # padding zeros count in the mean, as in Caffe
        hidden = scaled(1024, width)
        dilation = 12 if dense else 6
        layers["fc6"] = nn.Conv2d(before, hidden, 3, padding=dilation, dilation=dilation)
        layers["relu6"] = nn.ReLU(inplace=True)
        layers["drop6"] = nn.Dropout(0.5)
        layers["fc7"] = nn.Conv2d(hidden, hidden, 1)
        layers["relu7"] = nn.ReLU(inplace=True)
        layers["drop7"] = nn.Dropout(0.5)
        super().__init__(layers)
        self.channels = hidden
        self.output_stride = output_stride

    def first_stages(self, count: int) -> tuple[nn.Module, ...]:
        return tuple(layer for name, layer in self.named_children() if name.startswith(tuple(f"conv{stage}_" for stage in range(1, count + 1))))


def _draw_as_torchvision(body: nn.Module, features: int) -> None:
    """Draw from torch's generator what torchvision draws for the classifier that is left out and for its first weights, which are replaced.

    So a seed means the same weights, whichever of the two builds the network.
    """
    classifier = nn.Linear(features, 1000)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    if isinstance(body, DenseMobileNetV2):
        nn.init.normal_(classifier.weight)


def _conv_norm(before: int, after: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    return nn.Sequential(nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after),
                         nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """A block of MobileNetV2 (Sandler et al., CVPR 2018): widen by 1×1, a 3×3 on each channel, narrow by 1×1."""

    def __init__(self, before: int, after: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = before * expansion
        widen = [_conv_norm(before, hidden)] if expansion > 1 else []
        self.conv = nn.Sequential(*widen, _conv_norm(hidden, hidden, 3, stride=stride, groups=hidden),
                                  nn.Conv2d(hidden, after, 1, bias=False), nn.BatchNorm2d(after))
        self.shortcut = stride == 1 and before == after

    def forward(self, images: Tensor) -> Tensor:
        changed: Tensor = self.conv(images)
        return images + changed if self.shortcut else changed


class DenseMobileNetV2(Trunk):
    """MobileNetV2 without its classifier; strides beyond ``output_stride`` become dilation.

    ``width`` also scales the last 1×1 layer (torchvision keeps 1280 channels there), which small data has no use for.
    """

    name = "mobilenet_v2"
    stages = 7
    features: nn.Sequential
    _PLAN = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    # of each stage: expansion, channels, blocks, stride of the first

    def __init__(self, *, output_stride: int, width: float, stages: int) -> None:
        super().__init__()
        before = scaled(32, width)
        features: list[nn.Module] = [_conv_norm(3, before, 3, stride=2)]
        for expansion, channels, blocks, stride in self._PLAN:
            for block in range(blocks):
                after = scaled(channels, width)
                features.append(InvertedResidual(before, after, stride=1 if block else stride, expansion=expansion))
                before = after
        self.features = nn.Sequential(*features, _conv_norm(before, 1280))
        _draw_as_torchvision(self, 1280)
        self.channels = scaled(1280, width)
        self.features = self.features[:self._blocks(stages)]
        self.features.append(_conv_norm(scaled(self._PLAN[stages - 1][1], width), self.channels))
        self.output_stride = output_stride
        self._dilate(output_stride)

    @staticmethod
    def _blocks(stages: int) -> int:
        """Entries of ``features`` up to a stage: the first convolution and the blocks of each stage."""
        return 1 + sum(blocks for _, _, blocks, _ in DenseMobileNetV2._PLAN[:stages])

    def first_stages(self, count: int) -> tuple[nn.Module, ...]:
        return tuple(self.features[:self._blocks(count)])

    def _dilate(self, output_stride: int) -> None:
        stride, dilation = 2, 1  # after the first convolution
        for block in self.features:
            for conv in block.modules() if isinstance(block, InvertedResidual) else ():
                if not isinstance(conv, nn.Conv2d) or conv.kernel_size == (1, 1):
                    continue
                # A layer that loses its stride still reads the grid before it; only later ones see it spread out.
                conv.dilation = conv.padding = (dilation, dilation)
                if conv.stride == (2, 2):
                    if stride < output_stride:
                        stride *= 2
                    else:
                        conv.stride = (1, 1)
                        dilation *= 2

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        return features


class Bottleneck(nn.Module):
    """A block of ResNet-50 (He et al., CVPR 2016) with its stride on the 3×3 layer, as torchvision has it."""

    expansion = 4

    def __init__(self, before: int, width: int, *, stride: int, dilation: int, downsample: nn.Module | None) -> None:
        super().__init__()
        after = width * self.expansion
        self.conv1, self.bn1 = nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, after, 1, bias=False), nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features))
        features += images if self.downsample is None else self.downsample(images)
        kept: Tensor = self.relu(features)
        return kept


class DenseResNet50(Trunk):
    """ResNet-50 without its classifier; ``width`` scales all blocks, the first convolution keeps 64 channels."""

    name = "resnet50"
    stages = 4

    def __init__(self, *, output_stride: int, width: float, stages: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, reached, dilation = 64, 4, 1
        for stage, blocks in enumerate((3, 4, 6, 3), 1):
            channels, stride, previous = scaled(32 << stage, width), 1 if stage == 1 else 2, dilation
            if reached * stride > output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            after = channels * Bottleneck.expansion
            layers = []
            for block in range(blocks):
                # A layer that loses its stride still reads the grid before it; only later ones see it spread out.
                fits = block > 0 or (stride == 1 and before == after)
                layers.append(Bottleneck(before, channels, stride=1 if block else stride, dilation=dilation if block else previous,
                                         downsample=None if fits else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False),
                                                                                    nn.BatchNorm2d(after))))
                before = after
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        _draw_as_torchvision(self, 512 * Bottleneck.expansion)
        for stage in range(stages + 1, 5):
            delattr(self, f"layer{stage}")
        self.channels = scaled(64 << (stages - 1), width) * Bottleneck.expansion
        self.output_stride = output_stride

    def first_stages(self, count: int) -> tuple[nn.Module, ...]:
        return (self.conv1, self.bn1, *(getattr(self, f"layer{stage}") for stage in range(1, count + 1)))

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.children():  # conv1, bn1, relu, maxpool, layer1 … layer4: without its head the network is a plain sequence
            images = layer(images)
        return images


TRUNKS: dict[str, type[Any]] = {"vgg16": LargeFov, "mobilenet_v2": DenseMobileNetV2, "resnet50": DenseResNet50}


def build_trunk(name: str, *, output_stride: int, width: float, stages: int | None = None, generator: torch.Generator | None = None) -> Trunk:
    """A trunk with random weights: normal after He et al. (fan-out) for convolutions, 1 and 0 for batch norm.

    Parameters
    ----------
    name : "vgg16", "mobilenet_v2" or "resnet50".
    output_stride : pixels per cell, 8 or 16.
    width : factor on the channels of all layers, 0 < width ≤ 1; rounded to multiples of 8.
    stages : how many of its stages (groups of layers with the same number of channels) are kept, None = all. Fewer see a
        smaller field: without pretraining, a field larger than the image leaves the heatmaps without a place.
    generator : source of the random weights; without one, torch's global generator.
    """
    if name not in TRUNKS:
        raise AepslError(f"network.trunk: expected one of {', '.join(TRUNKS)}, found {name!r}")
    if output_stride not in (8, 16):
        raise AepslError(f"network.output_stride: expected 8 or 16, found {output_stride!r}")
    if not 0 < width <= 1:
        raise AepslError(f"network.width: expected 0 < width ≤ 1, found {width!r}")
    least = {"vgg16": 3, "mobilenet_v2": 3, "resnet50": 2}[name] + (output_stride == 16)  # the stage that reaches the output stride
    if stages is not None and not least <= stages <= TRUNKS[name].stages:
        raise AepslError(f"network.stages: expected {least} to {TRUNKS[name].stages} for {name} at output stride {output_stride}, or null, "
                         f"found {stages!r}")
    trunk: Trunk = TRUNKS[name](output_stride=output_stride, width=width, stages=stages or TRUNKS[name].stages)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            # nn.init.kaiming_normal_ ignores groups and would make depthwise layers vanish.
            fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    return trunk
