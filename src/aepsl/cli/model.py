"""``aepsl info`` and ``aepsl onnx``: what a trained model is, and the same model for other programs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from aepsl.cli.shell import example, json_text, name_of, show, size_text, writable_target

INFO_HELP = """Say what a trained model knows: its classes, network, scores, hash.

All of it stands in the file itself. Reading one runs nothing that it holds."""
ONNX_HELP = """Write a trained model as ONNX, for programs without Python or torch.

In goes a photograph's pixels of any size, out come the labels of `aepsl predict --max-side 0`: preprocessing is inside, making large
photographs smaller and the CRF are not. The file describes itself: classes, colours and hash are in its metadata."""
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="What a run has trained: models/aepsl.pt.", show_default=False)]


def info(model: Model, as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False) -> None:
    from aepsl.segmenter import Segmenter

    told = Segmenter.load(model, device="cpu").info
    if as_json:
        print(json_text(told))
        return
    show(f"{name_of(model)}: {size_text(model.stat().st_size)}")
    show(f"classes        {len(told['classes'])}: {', '.join(told['classes'])}")
    for name, value in told.items():
        if name == "classes" or value is None:
            continue
        if isinstance(value, Mapping):
            lines = [f"{key}: {brief}" for key, brief in flat(value)]
            show("\n".join(f"{name if number == 0 else '':14} {line}" for number, line in enumerate(lines)))
        else:
            show(f"{name:14} {value}")


def flat(group: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a group and those in it, in one line each; unknown ones are left out."""
    for name, value in group.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def onnx(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write, .onnx.", show_default=False)],
    one_view: Annotated[bool, typer.Option("--one-view", help="One scale, not mirrored, where the model averages over several views.")] = False,
) -> None:
    from aepsl.segmenter import Segmenter

    writable_target(out)
    segmenter = Segmenter.load(model, device="cpu")
    segmenter.to_onnx(out, scales=[1.0] if one_view else None, flip=False if one_view else None)
    show(f"{out}: {size_text(out.stat().st_size)}; labels 0 to {len(segmenter.classes)}: background, {', '.join(segmenter.classes)}")


INFO_EPILOG = example("aepsl info models/aepsl.pt", "aepsl info models/aepsl.pt --json", statuses="0 told; 1 it cannot be read; 2 wrong usage.")
ONNX_EPILOG = example("aepsl onnx models/aepsl.pt --out aepsl.onnx", statuses="0 written; 1 it cannot be; 2 wrong usage.")
