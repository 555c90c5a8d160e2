"""The command line."""

import sys
from importlib import import_module
from typing import Any

import click

from oodbench.errors import OodbenchError

_COMMANDS = {
    "run": "Evaluate detectors on OOD images, clean or attacked.",
    "train": "Train the networks behind detectors.",
    "list": "List detectors, attacks, data sets or networks.",
    "data": "Get, import, list and verify image data.",
    "audit": "Check how far attacked figures can be trusted.",
    "score": "Say of images whether they are out-of-distribution.",
    "leaderboard": "Compare stored results: detectors against perturbations.",
    "check": "Refuse results that are worse than a reference.",
}
INTERRUPTED = 130
_INTERRUPTED_NOTE = (
    "interrupted; finished cells, pieces of cells and epochs of trainings are kept, and the same "
    "command goes on from there"
)


class _Lazy(click.Group):
    """Imports a command when it is used, so that help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"oodbench.commands.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command is called {args[0]!r}; there are {', '.join(_COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="oodbench")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Measure how well detectors notice out-of-distribution images, also under attack.

    oodbench run --detector atom --attack linf --eps 8/255
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    0 done; 1 a check found something worse; 2 the request or its data are wrong; 3 cells failed,
    all others are stored; 130 interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    given = ["--debug"] * debug + [argument for argument in given if argument != "--debug"]
    try:
        code: Any = cli.main(given, prog_name="oodbench", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _tell(_INTERRUPTED_NOTE)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        if not given[int(debug) :]:
            # Without a command click raises the help text.
            click.echo(error.format_message(), err=True)
        else:
            _tell(error.format_message())
        sys.exit(2)
    except OodbenchError as error:
        if debug:
            raise
        _tell(str(error))
        sys.exit(error.exit_code)
    except SystemExit as error:
        # Click leaves with 1, which means something else here, when a pipe is closed.
        sys.exit(0 if isinstance(error.__context__, BrokenPipeError) else error.code)
    except Exception as error:
        if debug:
            raise
        _tell(f"{_unforeseen(error)}; --debug shows where")
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


def _tell(message: str) -> None:
    click.echo(f"oodbench: {' '.join(message.split())}", err=True)


if __name__ == "__main__":
    main()
