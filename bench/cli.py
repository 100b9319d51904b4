"""The `rankbench` command: one module of `bench.commands` per subcommand."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from bench.configuration import add_installed
from bench.core.errors import UserError
from bench.execute.logging_setup import exit_on_signals, quiet_libraries

SUMMARIES = {
    "bench": "Run all cells of a benchmark that are not recorded yet, and print its table.",
    "run": "Run one configuration, or with -m every combination of comma-separated values.",
    "table": "Print a benchmark's table from its recorded runs.",
    "figure": "Write a benchmark's figure and tables from its recorded runs.",
    "compare": "Compare runs that differ in one factor: paired differences with intervals.",
    "report": "Write one HTML page of all claims, tables, figures and runs.",
    "runs": "List the recorded runs with their status.",
    "sync": "Upload offline runs to W&B, with W&B's own `wandb sync`.",
    "data": "Get or find, verify and describe data sets.",
    "perf": "Measure training speed against the published formulation and this machine's peak.",
}


class Commands(click.Group):
    """Imports a command's module when it is called, so that each waits for its own imports only."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user meets them."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, imported now."""
        if cmd_name not in SUMMARIES:
            return None
        return import_module(f"bench.commands.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))


@click.group(
    cls=Commands, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
def rankbench() -> None:
    """Benchmarks of why trained networks generalize."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0 only if everything asked for has happened."""
    for stream in ("stdout", "stderr"):  # closed by the caller, as in `rankbench runs >&-`
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115 - open to the end
    exit_on_signals()
    quiet_libraries()
    try:
        add_installed()
        sys.exit(rankbench.main(arguments, prog_name="rankbench", standalone_mode=False) or 0)
    except UserError as error:
        code, message = 2, str(error)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "rankbench"
        code, message = 2, f"{' '.join(error.format_message().split())} See `{path} --help`."
    except (KeyboardInterrupt, click.Abort):
        code, message = 130, "interrupted; the same command goes on from here"
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder taken away: not ours to explain further
        code, message = 1, f"{error}; what was recorded stays"
    print(f"rankbench: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
