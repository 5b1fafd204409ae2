"""Starting weights: every published format, strict loading, damaged and hostile files, equal bytes."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from aepsl.errors import AepslError, FaultList
from aepsl.networks import weights as module
from aepsl.networks.trunks import build_trunk
from aepsl.networks.weights import StartingWeights, load_into, load_weights, save_weights, starting_weights

CONVS = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256), 14: (256, 256), 17: (512, 256),
         19: (512, 512), 21: (512, 512), 24: (512, 512), 26: (512, 512), 28: (512, 512)}  # fmt: skip


def constant(value: float, *shape: int) -> Tensor:
    """A tensor of any size that takes no memory, neither here nor in a file."""
    return torch.tensor(value).expand(shape)


def vgg_convs(prefix: str) -> dict[str, Tensor]:
    state = {}
    for at, (after, before) in CONVS.items():
        state[f"{prefix}{at}.weight"] = constant(at, after, before, 3, 3)
        state[f"{prefix}{at}.bias"] = constant(-at, after)
    return state


def ramp(*shape: int, strides: tuple[int, ...]) -> Tensor:
    """The values Σ stride · index, stored once."""
    length = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return torch.arange(length, dtype=torch.float32).as_strided(shape, strides)


def torchvision_vgg() -> dict[str, Tensor]:
    return vgg_convs("features.") | {
        "classifier.0.weight": ramp(4096, 25088, strides=(7, 1)), "classifier.0.bias": ramp(4096, strides=(1,)),
        "classifier.3.weight": ramp(4096, 4096, strides=(5, 1)), "classifier.3.bias": ramp(4096, strides=(1,)),
        "classifier.6.weight": constant(0.0, 1000, 4096), "classifier.6.bias": constant(0.0, 1000),
    }  # fmt: skip


def written(folder: Path, state: object) -> str:
    path = folder / "some.pth"
    torch.save(state, path)
    return str(path)


def read(folder: Path, trunk: str, state: object, width: float = 1) -> StartingWeights:
    return starting_weights(trunk, written(folder, state), width=width, cache=folder)


def test_torchvisions_vgg16_is_decimated_as_deeplab_did(tmp_path: Path) -> None:
    found = read(tmp_path, "vgg16", torchvision_vgg())
    assert (found.source, found.preprocessing, found.fresh) == ("torchvision vgg16", "imagenet", [])
    assert found.state["conv5_1.weight"].shape == (512, 512, 3, 3)
    assert found.state["conv5_1.weight"].unique().tolist() == [24]
    fc6 = found.state["fc6.weight"]
    assert fc6.shape == (1024, 512, 3, 3)
    for unit, channel, row, column in [(0, 0, 0, 0), (3, 2, 1, 2), (1023, 511, 2, 2)]:
        assert fc6[unit, channel, row, column] == 7 * 4 * unit + 49 * channel + 7 * 3 * row + 3 * column
    assert found.state["fc6.bias"][:3].tolist() == [0, 4, 8]
    fc7 = found.state["fc7.weight"]
    assert fc7.shape == (1024, 1024, 1, 1)
    assert fc7[2, 3, 0, 0] == 5 * 8 + 12
    assert all(value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes for value in found.state.values())


@pytest.mark.parametrize("prefix", ["", "features."])
def test_convolutions_alone_expect_grey_levels_and_leave_the_rest_random(tmp_path: Path, prefix: str) -> None:
    found = read(tmp_path, "vgg16", vgg_convs(prefix))
    assert (found.source, found.preprocessing) == ("VGG16 convolutions, original scaling", "caffe")
    assert found.fresh == ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"]
    assert len(found.state) == 26


def test_torchvisions_original_scaling_file_has_nan_for_its_classifier(tmp_path: Path) -> None:
    state = torchvision_vgg()
    state |= {key: constant(float("nan"), *value.shape) for key, value in state.items() if key.startswith("classifier")}
    found = read(tmp_path, "vgg16", state)
    assert (found.preprocessing, len(found.state), len(found.fresh)) == ("caffe", 26, 4)


def test_the_decimated_file_fills_fc6_and_fc7(tmp_path: Path) -> None:
    state = vgg_convs("") | {"31.weight": constant(31.0, 1024, 512, 3, 3), "31.bias": constant(31.0, 1024),
                             "33.weight": constant(33.0, 1024, 1024, 1, 1), "33.bias": constant(33.0, 1024)}  # fmt: skip
    found = read(tmp_path, "vgg16", state)
    assert (found.preprocessing, found.fresh) == ("caffe", [])
    assert found.state["fc7.bias"].unique().tolist() == [33]


@pytest.mark.parametrize(("name", "heads"), [("mobilenet_v2", 2), ("resnet50", 2)])
def test_torchvisions_other_networks_load_without_their_heads(tmp_path: Path, name: str, heads: int) -> None:
    with torch.device("meta"):
        full = torchvision.models.get_model(name).state_dict()
    state = {key: constant(0.25, *value.shape) if value.is_floating_point() else torch.tensor(7) for key, value in full.items()}
    found = read(tmp_path, name, state)
    assert (found.source, found.preprocessing, found.fresh) == (f"torchvision {name}", "imagenet", [])
    assert len(found.state) == len(state) - heads
    # Files from before batch norm counted its batches.
    older = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert read(tmp_path, name, older).state.keys() == found.state.keys()


def test_no_weights_leave_the_trunk_as_it_was(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.pth", starting_weights("mobilenet_v2", "none", width=0.1, cache=tmp_path))
    trunk = build_trunk("mobilenet_v2", output_stride=8, width=0.1)
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    load_into(trunk, tmp_path / "w.pth")
    assert all(torch.equal(before[key], value) for key, value in trunk.state_dict().items())
    assert trunk.preprocessing == "imagenet"


def small(fill: float = 1.0, preprocessing: str = "imagenet") -> StartingWeights:
    state = build_trunk("vgg16", output_stride=8, width=0.01).state_dict()
    return StartingWeights("vgg16", preprocessing, "a test", {key: torch.full_like(value, fill) for key, value in state.items()})


def test_loading_sets_every_tensor_and_the_preprocessing(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.pth", small(0.5, "caffe"))
    trunk = build_trunk("vgg16", output_stride=16, width=0.01)
    assert load_into(trunk, tmp_path / "w.pth").source == "a test"
    assert all(value.unique().tolist() == [0.5] for value in trunk.state_dict().values())
    assert trunk.preprocessing == "caffe"


def test_every_misfit_is_listed_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    weights = small()
    state = dict(weights.state)
    del state["conv1_1.bias"]
    state["conv9.weight"] = torch.zeros(1)
    state["fc7.weight"] = torch.zeros(8, 16, 1, 1)
    state["fc6.bias"] = torch.full((16,), float("nan"))
    save_weights(tmp_path / "w.pth", StartingWeights("vgg16", "imagenet", "a test", state))
    trunk = build_trunk("vgg16", output_stride=8, width=0.01)
    with pytest.raises(FaultList) as caught:
        load_into(trunk, tmp_path / "w.pth")
    assert caught.value.faults == [
        "conv1_1.bias: missing, expected (8,)",
        "conv9.weight: unexpected",
        "fc6.bias: expected finite numbers, found NaN or infinity",
        "fc7.weight: expected (16, 16, 1, 1), found (8, 16, 1, 1)",
    ]
    assert "w.pth" in str(caught.value)
    assert trunk.state_dict()["conv1_2.weight"].std() > 0


def test_equal_weights_give_equal_bytes_even_after_a_round_trip(tmp_path: Path) -> None:
    one, two = tmp_path / "one.pth", tmp_path / "two.pth"
    save_weights(one, small())
    save_weights(two, load_weights(one))
    assert one.read_bytes() == two.read_bytes()
    save_weights(two, small(2.0))
    assert one.read_bytes() != two.read_bytes()


def test_the_projects_own_file_is_accepted_as_a_path(tmp_path: Path) -> None:
    first = read(tmp_path, "vgg16", vgg_convs(""))
    save_weights(tmp_path / "own.pth", first)
    again = starting_weights("vgg16", str(tmp_path / "own.pth"), width=1, cache=tmp_path)
    assert (again.source, again.preprocessing, again.fresh) == (first.source, "caffe", first.fresh)
    with pytest.raises(AepslError, match="expected weights of resnet50, found those of vgg16"):
        starting_weights("resnet50", str(tmp_path / "own.pth"), width=1, cache=tmp_path)
    with pytest.raises(AepslError, match="expected weights of mobilenet_v2, found those of vgg16"):
        load_into(build_trunk("mobilenet_v2", output_stride=8, width=1), tmp_path / "own.pth")


@pytest.mark.parametrize("weights", ["imagenet", "some.pth"])
def test_weights_exist_for_width_one_alone(tmp_path: Path, weights: str) -> None:
    with pytest.raises(AepslError, match=r"only for width 1, found .* network.width 0\.5"):
        starting_weights("vgg16", weights, width=0.5, cache=tmp_path)


def test_imagenet_is_fetched_with_the_checksum_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        full = torchvision.models.mobilenet_v2().state_dict()
    path = Path(written(tmp_path, {key: torch.ones(value.shape, dtype=value.dtype) for key, value in full.items()}))
    asked = []

    def fetch(urls: list[str], target: Path, *, sha256: str) -> Path:
        asked.append((urls, target, sha256))
        return path

    monkeypatch.setattr(module, "fetch", fetch)
    assert starting_weights("mobilenet_v2", "imagenet", width=1, cache=tmp_path / "cache").source == "torchvision mobilenet_v2"
    assert asked == [
        (["https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"], tmp_path / "cache" / "mobilenet_v2-b0353104.pth", "b0353104")
    ]
    assert {name.split("-")[1][:8] for name in module.IMAGENET_FILES.values()} == {"397923af", "b0353104", "0676ba61"}
    for trunk, checksum in module._SHA256.items():
        assert len(bytes.fromhex(checksum)) == 32
        assert module.IMAGENET_FILES[trunk].endswith(f"-{checksum[:8]}.pth")


class Shell:
    """Pickles to a call of os.abort, as a hostile file might: if it were run, so would be the tests' end."""

    def __reduce__(self) -> tuple[Callable[[], object], tuple[()]]:
        return os.abort, ()


OWN = {"format": 1, "trunk": "vgg16", "preprocessing": "caffe", "source": "", "state": {"a": torch.ones(9999)}, "fresh": []}


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda good: b"", id="empty"),
        pytest.param(lambda good: good[: len(good) // 2], id="cut"),
        pytest.param(lambda good: b"<html>404</html>" * 9, id="web page"),
        pytest.param(lambda good: bytes(range(256)) * 8, id="noise"),
        pytest.param(lambda good: good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 255]) + good[len(good) // 2 + 1 :], id="one byte"),
        pytest.param(lambda good: pickled({"0.weight": Shell()}), id="hostile"),
        pytest.param(lambda good: pickled([1, 2]), id="list"),
        pytest.param(lambda good: pickled({}), id="nothing"),
        pytest.param(lambda good: pickled({0: torch.zeros(1)}), id="numbered"),
        pytest.param(lambda good: pickled({"model": {"0.weight": torch.zeros(1)}}), id="nested"),
        pytest.param(lambda good: pickled({"conv1.weight": torch.zeros(1)}), id="other network"),
        pytest.param(lambda good: pickled({"0.weight": torch.zeros(64, 3, 3, 3)}), id="incomplete"),
        pytest.param(lambda good: pickled({"format": 2}), id="later format"),
        pytest.param(lambda good: pickled({"format": torch.zeros(2)}), id="odd format"),
        pytest.param(lambda good: pickled(OWN | {"state": 3}), id="odd content"),
        pytest.param(lambda good: pickled(OWN | {"preprocessing": ["caffe"]}), id="odd preprocessing"),
        pytest.param(lambda good: pickled(OWN | {"trunk": {}}), id="odd trunk"),
    ],
)
@pytest.mark.parametrize("trunk", ["vgg16", "mobilenet_v2"])
def test_damaged_and_hostile_files_are_errors_that_name_them(tmp_path: Path, damage: Callable[[bytes], bytes], trunk: str) -> None:
    path = tmp_path / "bad.pth"
    path.write_bytes(damage(pickled(OWN)))
    with pytest.raises(AepslError, match=r"bad\.pth") as caught:
        starting_weights(trunk, str(path), width=1, cache=tmp_path)
    assert "expected" in str(caught.value) or "do not fit" in str(caught.value)
    with pytest.raises(AepslError, match=r"bad\.pth"):
        load_into(build_trunk("vgg16", output_stride=8, width=0.01), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AepslError, match=r"absent.pth: no such weights file; set network.weights"):
        starting_weights("vgg16", str(tmp_path / "absent.pth"), width=1, cache=tmp_path)


def test_torchvision_layers_of_another_size_are_listed(tmp_path: Path) -> None:
    state = torchvision_vgg() | {"classifier.0.weight": constant(0.0, 128, 25088)}
    del state["classifier.3.bias"]
    with pytest.raises(FaultList) as caught:
        read(tmp_path, "vgg16", state)
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["classifier.0.weight", "classifier.3.bias"]


def test_real_weights_give_torchvisions_features(tmp_path: Path, third_party: Callable[[str], Path]) -> None:
    real = third_party("weights/mobilenet_v2-imagenet.pth")
    save_weights(tmp_path / "w.pth", starting_weights("mobilenet_v2", str(real), width=1, cache=tmp_path))
    plain = torchvision.models.mobilenet_v2().eval()
    plain.load_state_dict(torch.load(real, weights_only=True))
    image = torch.randn(1, 3, 129, 161, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sparse = plain.features(image)
        for stride in (8, 16):
            trunk = build_trunk("mobilenet_v2", output_stride=stride, width=1).eval()
            load_into(trunk, tmp_path / "w.pth")
            torch.testing.assert_close(trunk(image)[:, :, :: 32 // stride, :: 32 // stride], sparse, rtol=1e-3, atol=1e-4)
    assert 0.05 < sparse.mean().item() < 5


def test_a_flipped_bit_in_the_numbers_is_found_by_the_checksums(tmp_path: Path) -> None:
    trunk = build_trunk("mobilenet_v2", output_stride=16, width=0.05, stages=4)
    path = tmp_path / "weights.pt"
    save_weights(path, StartingWeights(trunk.name, "imagenet", "test", trunk.state_dict()))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(AepslError, match=r"weights\.pt: expected a PyTorch file of plain tensors, found a damaged or unsafe one \(.*checksum"):
        load_into(trunk, path)


def test_a_tensor_that_claims_any_size_is_told_and_not_copied(tmp_path: Path) -> None:
    state = vgg_convs("") | {"0.weight": constant(1.0, 10**6, 10**6), "31.weight": constant(1.0, 10**6, 10**6)}
    with pytest.raises(FaultList) as caught:
        read(tmp_path, "vgg16", state)
    assert any(fault.endswith("found (1000000, 1000000)") for fault in caught.value.faults)


@pytest.mark.parametrize("odd", [torch.zeros(2).to_sparse(), torch.zeros(2, dtype=torch.complex64), torch.empty(2, device="meta"),
                                 torch.zeros(2, dtype=torch.bool)])
def test_tensors_that_no_network_could_hold_are_named(tmp_path: Path, odd: Tensor) -> None:
    with pytest.raises(FaultList, match=r"0\.weight: expected "):
        read(tmp_path, "vgg16", vgg_convs("") | {"0.weight": odd})
