"""Count lines of Python that are code: without tests, comments, docstrings and blank lines."""

import ast
import io
import subprocess
import tokenize
from pathlib import Path

IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
IGNORED.add(tokenize.ENDMARKER)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(source):
    """Return how many lines of a source hold code."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {
        line
        for token in tokens
        if token.type not in IGNORED
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - docstrings)


if __name__ == "__main__":
    names = subprocess.check_output(["git", "ls-files", "bench/*.py", "data_prep/*.py"], text=True)
    print(sum(code_lines(Path(name).read_text()) for name in names.split()))
