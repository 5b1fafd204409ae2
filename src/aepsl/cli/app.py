"""The app: its commands in the order of the work, its options, and the entry point."""

import sys
from typing import Annotated

import typer

from aepsl.cli import ablations, check, clean, compare, model, predict, report, server
from aepsl.cli.shell import DATA, MODELS, RUNS, SERVER, UPKEEP, Commands, flowing, hush
from aepsl.resume import interrupt

app = typer.Typer(
    name="aepsl", cls=Commands, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Pixel-wise segmentation, learnt from images that only say what they show.\n\n"
         "The pipeline itself runs with `dvc repro`. This command checks data before a run, predicts new photographs with what a run has trained, "
         "and compares runs.")


def version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as installed

        print(f"aepsl {installed('aepsl')}")
        raise typer.Exit


@app.callback(epilog="Examples:\n"
                     "  aepsl check my-images                              before a run\n"
                     "  aepsl predict models/aepsl.pt photos --out masks   after it\n"
                     "  aepsl compare main                                 against another run\n\n"
                     "aepsl COMMAND --help says more.")
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from (traceback).")] = False,
    _version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=version, is_eager=True)] = False,
) -> None:
    """Options that stand before the command."""


app.command("check", help=flowing(check.HELP), epilog=check.EPILOG, rich_help_panel=DATA)(check.check)
app.command("predict", help=flowing(predict.HELP), epilog=predict.EPILOG, rich_help_panel=MODELS)(predict.predict)
app.command("info", help=flowing(model.INFO_HELP), epilog=model.INFO_EPILOG, rich_help_panel=MODELS)(model.info)
app.command("onnx", help=flowing(model.ONNX_HELP), epilog=model.ONNX_EPILOG, rich_help_panel=MODELS)(model.onnx)
app.command("compare", help=flowing(compare.HELP), epilog=compare.EPILOG, rich_help_panel=RUNS)(compare.compare)
app.command("report", help=flowing(report.HELP), epilog=report.EPILOG, rich_help_panel=RUNS)(report.report)
app.command("ablations", help=flowing(ablations.HELP), epilog=ablations.EPILOG, rich_help_panel=RUNS)(ablations.ablations)
app.command("export", help=flowing(server.EXPORT_HELP), epilog=server.EXPORT_EPILOG, rich_help_panel=SERVER)(server.export)
app.command("validate", help=flowing(server.VALIDATE_HELP), epilog=server.VALIDATE_EPILOG, rich_help_panel=SERVER)(server.validate)
app.command("clean", help=flowing(clean.HELP), epilog=clean.EPILOG, rich_help_panel=UPKEEP)(clean.clean)


def main() -> None:
    """The entry point: as the app, and also tidy when the reader of its output goes away."""
    interrupt.install()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal in another encoding shows what it cannot write, and nothing stops
    try:
        app(prog_name="aepsl")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            hush()
