"""The command `holdfast`: its sub-commands, and how an error becomes a line and an exit status."""

import sys
from collections.abc import Sequence

import typer

from holdfast.errors import HoldfastError, UsageError, WorkerFailed
from holdfast.launch.commands import bench, data, schedule
from holdfast.launch.commands.clean import clean
from holdfast.launch.commands.drill import drill
from holdfast.launch.commands.launch import launch

app = typer.Typer(
    name="holdfast",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Data-parallel training in which a fault of the network is not a fault of the job.",
)
# Options end where the script begins: what follows it is the script's own.
app.command("launch", no_args_is_help=True, context_settings={"allow_interspersed_args": False})(
    launch
)
app.command("drill", context_settings={"allow_interspersed_args": False})(drill)
app.command("clean")(clean)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(schedule.app, name="schedule")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit.

    The status is 2 for an error of usage, a failing worker's own, 1 for other errors that Holdfast
    raises on purpose, 130 after Ctrl-C.
    """
    try:
        status = app(args=arguments, prog_name="holdfast", standalone_mode=False)
    except typer.TyperException as error:
        _exit(f"{error.format_message()} (see holdfast --help)", error.exit_code)
    except typer.Abort:
        _exit("aborted", 1)
    except WorkerFailed as error:
        _exit(str(error), error.exit_status)
    except UsageError as error:
        _exit(str(error), 2)
    except HoldfastError as error:
        _exit(str(error), 1)
    sys.exit(status if isinstance(status, int) else 0)


def _exit(message: str, status: int) -> None:
    print(f"holdfast: error: {message}", file=sys.stderr)
    sys.exit(status)
