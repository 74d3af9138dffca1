"""`holdfast schedule`: look at the schedules of the collectives."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Look at the schedules of the collectives.")


@app.callback()
def schedule() -> None:
    """Look at the schedules of the collectives."""


@app.command("draw")
def draw_schedule(
    algorithm: Annotated[
        str,
        typer.Argument(
            help="ring, exchange, direct, halving-doubling, double-tree, bidirectional-ring, "
            "binary-tree or two-level:LOCAL_RANKS; another collective has its own"
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="the SVG file that is written")],
    ranks: Annotated[int, typer.Option(help="how many ranks")] = 8,
    collective: Annotated[
        str,
        typer.Option(
            help="all-reduce, reduce-scatter, all-gather, all-to-all, barrier, broadcast, reduce, "
            "gather or scatter"
        ),
    ] = "all-reduce",
    root: Annotated[int, typer.Option(help="of a broadcast, reduce, gather or scatter")] = 0,
    pieces: Annotated[int, typer.Option(help="in how many pieces a tree takes its data")] = 3,
) -> None:
    """Draw a schedule as SVG: who sends what to whom in which round."""
    from holdfast.collectives.cost import MOST_PIECES, PIECE_BYTES
    from holdfast.collectives.schedules.by_name import by_name
    from holdfast.collectives.schedules.picture import draw

    if not 1 <= pieces <= MOST_PIECES:
        raise UsageError(f"1 to {MOST_PIECES} pieces were expected, found {pieces}")
    nbytes = pieces * PIECE_BYTES * (2 if algorithm == "double-tree" else 1)
    picture = draw(by_name(collective, algorithm, ranks, root=root, nbytes=nbytes), root=root)
    try:
        out.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    typer.echo(f"wrote {out}")
