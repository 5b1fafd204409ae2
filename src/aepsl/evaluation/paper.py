"""What the paper reports (Wei et al., CVPR 2017; val of PASCAL VOC 2012), in percent: to stand beside our own figures.

No mark: printed in the paper. [U]: recalled, unverified. [R]: the DeepLab release it builds on.
"""

ROUNDS = {"r1": "44.9 [U]", "r2": "49.5 [U]", "r3": "50.9", "r4": "48.8 [U]"}  # mIoU without PSL
PSL = {"off": "50.9", "on": "54.1", "psl++": "55.0", "true-labels": "56.1", "fully-supervised": "67.6 [R]"}  # Table 4; DeepLab-LargeFOV + CRF

CLASSES = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
           "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
_IOU = {
    "off": "78.5 71.8 29.2 64.1 39.9 57.8 58.5 54.5 63.0 10.3 60.5 36.0 61.6 56.1 62.6 42.9 36.5 64.5 31.5 49.5 38.7",
    "on": "83.3 70.0 31.6 69.7 40.8 54.2 63.2 58.4 69.9 18.1 65.5 33.5 69.8 60.7 60.5 50.5 38.1 69.4 31.4 57.3 39.7",
    "psl++": "83.4 71.1 30.5 72.9 41.6 55.9 63.1 60.2 74.0 18.0 66.5 32.4 71.7 56.3 64.8 52.4 37.4 69.1 31.4 58.9 43.9",
    "true-labels": "83.6 71.0 30.6 73.0 42.7 56.1 63.6 61.7 75.2 22.2 67.6 33.4 74.6 57.8 65.6 53.6 37.7 71.6 33.2 59.0 45.1",
}
IOU = {variant: dict(zip(CLASSES, map(float, values.split()), strict=True)) for variant, values in _IOU.items()}  # by variant and class
