"""Every recipe of CONTRIBUTING.md, run exactly as printed in a folder outside the repository."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import forked
import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"^# (mine/\S+)$", re.MULTILINE)  # the comment at the top of a file
# What the records of each recipe must mention: it shows that the new part was used.
TRACES = {
    "A data set": ["stripes"],
    "A control": ["permuted_pixels"],
    "A predictor, trained one-versus-all": ["factorization_machine"],
    "A network": ["perceptron"],
    "A metric": ["stable_rank"],
    "A regularizer": ["gradient_norm", "train_penalty"],
    "An optimizer": ["nesterov", "SignDescent"],
    "A benchmark": ["gray_levels"],
}


class Recipe(NamedTuple):
    """The files of one section by path, and the commands that it ends with."""

    files: dict[str, str]
    commands: list[list[str]]


def read_recipes() -> dict[str, Recipe]:
    """Return the recipes by the title of their section."""
    recipes = {}
    for section in (ROOT / "CONTRIBUTING.md").read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        blocks = BLOCK.findall(text)
        files = {
            NAME.search(code)[1]: code
            for language, code in blocks
            if language in ("python", "yaml")
        }
        lines = [line for kind, code in blocks if kind == "console" for line in code.splitlines()]
        if files:
            recipes[title] = Recipe(files, [shlex.split(line.removeprefix("$ ")) for line in lines])
    return recipes


RECIPES = read_recipes()


def test_every_recipe_is_known_and_complete():
    assert RECIPES.keys() == TRACES.keys()
    for recipe in RECIPES.values():
        assert recipe.commands
        assert all(command[0] == "rankbench" for command in recipe.commands)
        assert all(path.startswith("mine/") for path in recipe.files)


@pytest.mark.slow
@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_works_as_printed(title, tmp_path):
    recipe = RECIPES[title]
    for path, code in recipe.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(code)
    recorded: set[Path] = set()
    for _, *arguments in recipe.commands:
        code, output = forked.run(arguments, tmp_path)
        assert code == 0, output
        found = set(tmp_path.glob("runs/*/*/record.json"))
        assert found > recorded  # each command has recorded runs of its own
        recorded = found
    texts = [path.read_text() for path in recorded]
    assert {json.loads(text)["status"] for text in texts} <= {"converged", "max_steps"}
    for trace in TRACES[title]:
        assert any(trace in text for text in texts)
