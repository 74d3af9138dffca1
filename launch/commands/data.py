"""`holdfast data`: fetch data sets by hand."""

from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Fetch the data sets that the examples train on."""


@app.command()
def fetch(
    name: Annotated[Literal["fashion-mnist"], typer.Argument(help="the data set")],
) -> None:
    """Have a data set on this machine, checked: found where it may lie already, or fetched."""
    from holdfast.runtime import fetch as source  # NumPy, which the other commands don't wait for

    fetchers = {"fashion-mnist": source.fetch_fashion_mnist}
    fetchers[name](lambda line: print(f"holdfast: {line}", flush=True))
