"""The `rankbench` command: thin verbs over run, sweep and report."""

import argparse
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from bench.errors import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, to be printed like every other mistake."""
        raise UserError(f"`{self.prog}` ({message})", f"what `{self.prog} --help` shows")


def build_parser() -> Parser:
    """Return the parser of all verbs; each verb's function is in `bench.verbs`."""
    parser = Parser(prog="rankbench", description="Benchmarks of why trained networks generalize.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, summary: str, example: str) -> Parser:
        formatter = argparse.RawDescriptionHelpFormatter
        return verbs.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=f"example: {example}",
            formatter_class=formatter,
        )

    def overrides(sub: Parser) -> None:
        text = "Hydra overrides, such as data=mnist model.rank=3 tracking.mode=online"
        sub.add_argument("overrides", nargs="*", metavar="key=value", help=text)

    sub = verb(
        "bench",
        "Run all cells of a benchmark that are not recorded yet, and print its table.",
        "rankbench bench tensor_rank data=mnist classes=[6] ranks=[1,2,5]",
    )
    sub.add_argument("name", help="the benchmark")
    overrides(sub)
    sub = verb(
        "run",
        "Run one configuration, or with -m every combination of comma-separated values.",
        "rankbench run model.rank=3 variant=random_labels",
    )
    sub.add_argument("-m", "--multirun", action="store_true", help="a Hydra multirun")
    overrides(sub)
    sub = verb(
        "table", "Print a benchmark's table from its recorded runs.", "rankbench table tensor_rank"
    )
    sub.add_argument("name", help="the benchmark")
    sub.add_argument(
        "--format", default="markdown", choices=["markdown", "csv", "latex"], help="what to print"
    )
    overrides(sub)
    sub = verb(
        "figure",
        "Draw a benchmark's figure from its recorded runs.",
        "rankbench figure tensor_rank",
    )
    sub.add_argument("name", help="the benchmark")
    overrides(sub)
    sub = verb(
        "compare",
        "Compare runs that differ in one factor alone: paired differences with 95 %% intervals.",
        "rankbench compare tensor_rank --by variant --metric train_error --where model.rank=5",
    )
    sub.add_argument("name", help="the benchmark")
    sub.add_argument("--by", required=True, metavar="FACTOR", help="a configuration column")
    sub.add_argument("--metric", required=True, help="a metric, such as train_error")
    sub.add_argument(
        "--where", nargs="+", default=[], metavar="column=value", help="only such runs"
    )
    sub.add_argument("--reference", metavar="VALUE", help="the factor's value to compare with")
    overrides(sub)
    sub = verb("runs", "List the recorded runs with their status.", "rankbench runs --verify")
    sub.add_argument("--verify", action="store_true", help="hold each record against its W&B file")
    overrides(sub)
    sub = verb(
        "perf",
        "Measure training speed against the published formulation and this machine's peak.",
        "rankbench perf --rounds 5 --out results/perf",
    )
    sub.add_argument("--rounds", type=int, default=5, help="how often each case is measured")
    sub.add_argument("--out", help="a folder for table.md, measurements.csv and PROVENANCE.md")
    sub = verb(
        "data", "Get or find, verify and describe data sets.", "rankbench data mnist data.root=data"
    )
    sub.add_argument("names", nargs="*", metavar="NAME", help="data sets; all if none is given")
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
        from bench import verbs  # after --help, which need not wait for torch

        _quiet_libraries()
        function: Callable[[argparse.Namespace], int] = getattr(verbs, parsed.verb)
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


def _quiet_libraries() -> None:
    """Keep progress and tables readable: the libraries' own notes stay out of them."""
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")


if __name__ == "__main__":
    main()
