"""The `rankbench` command: thin verbs over run, sweep and report."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from bench.errors import UserError
from bench.quiet import quiet_libraries


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, to be printed like every other mistake."""
        raise UserError(f"`{self.prog}` ({message})", f"what `{self.prog} --help` shows")


class Verb(NamedTuple):
    """A verb's module in `bench.verbs`, its summary, an example, its arguments by their flags."""

    module: str
    summary: str
    example: str
    arguments: dict[str, dict[str, Any]]


NAME = {"help": "the benchmark"}
OVERRIDES = {
    "nargs": "*",
    "metavar": "key=value",
    "help": "Hydra overrides, such as data=mnist model.rank=3 tracking.mode=online",
}
SOURCE = {
    "dest": "source",
    "default": "records",
    "choices": ["records", "wandb", "results"],
    "help": "what the runs are read from: record files (default), W&B's files alone, or the results"
    " folder",
}
VERBS = {
    "bench": Verb(
        "training",
        "Run all cells of a benchmark that are not recorded yet, and print its table.",
        "rankbench bench tensor_rank data=mnist classes=[6] ranks=[1,2,5]",
        {"name": NAME, "overrides": OVERRIDES},
    ),
    "run": Verb(
        "training",
        "Run one configuration, or with -m every combination of comma-separated values.",
        "rankbench run model.rank=3 variant=random_labels",
        {
            "-m --multirun": {"action": "store_true", "help": "a Hydra multirun"},
            "overrides": OVERRIDES,
        },
    ),
    "table": Verb(
        "reading",
        "Print a benchmark's table from its recorded runs.",
        "rankbench table tensor_rank --format latex",
        {
            "name": NAME,
            "--format": {"default": "markdown", "choices": ["markdown", "csv", "latex"]},
            "--from": SOURCE,
            "overrides": OVERRIDES,
        },
    ),
    "figure": Verb(
        "publishing",
        "Write a benchmark's figure and tables from its recorded runs.",
        "rankbench figure tensor_rank results_dir=results",
        {"name": NAME, "overrides": OVERRIDES},
    ),
    "compare": Verb(
        "reading",
        "Compare runs that differ in one factor alone: paired differences with intervals.",
        "rankbench compare tensor_rank --by variant --metric train_error --where model.rank=5",
        {
            "name": NAME,
            "--by": {"metavar": "FACTOR", "help": "a configuration column"},
            "--metric": {"required": True, "help": "a metric, such as train_error"},
            "--where": {
                "nargs": "+",
                "default": [],
                "metavar": "column=value",
                "help": "only such runs",
            },
            "--from": SOURCE,
            "--reference": {
                "metavar": "VALUE",
                "help": "the factor's value to compare with (default: the first), or `published`:"
                " every row of the table with its published value, without --by",
            },
            "overrides": OVERRIDES,
        },
    ),
    "report": Verb(
        "publishing",
        "Write one HTML page of all claims, tables, figures and runs; it needs nothing beside it.",
        "rankbench report --from results",
        {
            "--from": {
                "dest": "source",
                "choices": ["runs", "results"],
                "help": "recorded runs, or the results folder (default: runs, if there are any)",
            },
            "overrides": OVERRIDES,
        },
    ),
    "sync": Verb(
        "publishing",
        "Upload the runs that are offline to W&B, with W&B's own `wandb sync`.",
        "rankbench sync runs_dir=runs",
        {"overrides": OVERRIDES},
    ),
    "runs": Verb(
        "reading",
        "List the recorded runs with their status.",
        "rankbench runs --verify",
        {
            "--verify": {"action": "store_true", "help": "hold each record against its W&B file"},
            "overrides": OVERRIDES,
        },
    ),
    "perf": Verb(
        "speed",
        "Measure training speed against the published formulation and this machine's peak.",
        "rankbench perf --rounds 5 --out results/perf",
        {
            "--rounds": {"type": int, "default": 5, "help": "how often each case is measured"},
            "--out": {"help": "a folder for table.md, measurements.csv and PROVENANCE.md"},
        },
    ),
    "data": Verb(
        "data_sets",
        "Get or find, verify and describe data sets.",
        "rankbench data mnist data.root=data",
        {
            "names": {"nargs": "*", "metavar": "NAME", "help": "data sets; all if none is given"},
            "overrides": OVERRIDES,
            "--show": {"action": "store_true", "help": "draw samples of tasks of two classes"},
        },
    ),
}


def build_parser() -> Parser:
    """Return the parser of all verbs; each verb's function has its name."""
    parser = Parser(prog="rankbench", description="Benchmarks of why trained networks generalize.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)
    for name, verb in VERBS.items():
        sub = verbs.add_parser(name, help=verb.summary, description=verb.summary)
        sub.epilog = f"example: {verb.example}"
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        for flags, settings in verb.arguments.items():
            sub.add_argument(*flags.split(), **settings)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line; overrides may stand before and after options."""
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    for word in rest:
        if word.startswith("-") or "=" not in word or "overrides" not in parsed:
            parser.error(f"unrecognized argument: {word}")
        parsed.overrides.append(word)
    return parsed


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0 only if everything asked for has happened."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        parsed = parse(arguments)
        module = import_module(f"bench.verbs.{VERBS[parsed.verb].module}")  # what it needs alone
        quiet_libraries()
        function: Callable[[argparse.Namespace], int] = getattr(module, parsed.verb)
        sys.exit(function(parsed))
    except UserError as error:
        print(f"rankbench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("rankbench: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder taken away: not ours to explain further
        print(f"rankbench: {error}; what was recorded stays", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
