"""Trunks: normalised images to feature maps, on a grid of one cell every 8 or 16 pixels.

DeepLab-LargeFOV (the paper's trunk, section 3.1 there) and, for small data and processors, two torchvision networks
made dense by dilation. In all three every strided layer centres its window, so cell (i, j) is centred on pixel
(stride·i, stride·j) and a side of H pixels has ceil(H / stride) cells. Nothing here loads weights: see ``weights``.
"""

import math
from collections import OrderedDict
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops.misc import Conv2dNormActivation

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


class DenseMobileNetV2(Trunk, MobileNetV2):
    """torchvision's MobileNetV2 without its classifier; strides beyond ``output_stride`` become dilation.

    ``width`` also scales the last 1×1 layer (torchvision keeps 1280 channels there), which small data has no use for.
    """

    name = "mobilenet_v2"
    stages = 7
    features: nn.Sequential

    def __init__(self, *, output_stride: int, width: float, stages: int) -> None:
        super().__init__(width_mult=width)
        del self.classifier
        self.channels = self.last_channel = scaled(1280, width)
        blocks = self._blocks(stages)
        before = scaled((16, 24, 32, 64, 96, 160, 320)[stages - 1], width)
        self.features = self.features[:blocks]
        self.features.append(Conv2dNormActivation(before, self.channels, kernel_size=1, activation_layer=nn.ReLU6))
        self.output_stride = output_stride
        self._dilate(output_stride)

    @staticmethod
    def _blocks(stages: int) -> int:
        """Entries of ``features`` up to a stage: the first convolution and the blocks of each stage."""
        return 1 + sum((1, 2, 3, 4, 3, 3, 1)[:stages])

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


class DenseResNet50(Trunk, ResNet):
    """torchvision's ResNet-50 without its classifier; ``width`` scales all blocks, the first convolution keeps 64 channels."""

    name = "resnet50"
    stages = 4
    inplanes: int

    def __init__(self, *, output_stride: int, width: float, stages: int) -> None:
        self._width = width  # read by _make_layer while the parent is being built
        super().__init__(Bottleneck, [3, 4, 6, 3], replace_stride_with_dilation=[False, output_stride == 8, True])
        del self.avgpool, self.fc
        for stage in range(stages + 1, 5):
            delattr(self, f"layer{stage}")
        self.channels = scaled(64 << (stages - 1), width) * Bottleneck.expansion
        self.output_stride = output_stride

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        stage: nn.Sequential = super()._make_layer(block, scaled(planes, self._width), *args, **kwargs)
        return stage

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
    widen_points(trunk)
    return trunk


def widen_points(network: nn.Module) -> None:
    """Give 1×1 convolutions a dilation: it means nothing to a window of one pixel, but at one thread torch hands undilated ones to a routine
    of its own, which in training and inference is slower than oneDNN's.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.dilation = (2, 2)
