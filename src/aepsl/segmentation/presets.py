"""Settings of the fully connected CRF that others published, by the name that ``refine.crf`` has for them."""

from aepsl.params import CrfSettings

PRESETS: dict[str, CrfSettings] = {
    # The model definition of the DeepLab-LargeFOV release (method section 5): AE-PSL builds on it.
    "deeplab": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=121, bilateral_rgb=5, spatial_weight=3, spatial_xy=3),
    # DeepLabV2, ResNet-101.
    "deeplab-v2": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=67, bilateral_rgb=3, spatial_weight=3, spatial_xy=1),
    # SEC (Kolesnikov and Lampert, 2016) and PSA (Ahn and Kwak, 2018).
    "psa": CrfSettings(iterations=10, bilateral_weight=10, bilateral_xy=80, bilateral_rgb=13, spatial_weight=3, spatial_xy=3),
    # AFA (Ru et al., 2022).
    "afa": CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=64, bilateral_rgb=5, spatial_weight=3, spatial_xy=3),
}


def crf_settings(name: str, custom: CrfSettings) -> CrfSettings | None:
    """The settings of a preset, of ``custom``, or None for ``none``."""
    return {"none": None, "custom": custom}[name] if name in ("none", "custom") else PRESETS[name]
