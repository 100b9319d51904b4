"""Sphinx configuration of the documentation site; `make docs` builds it into `build/docs`.

The sources are the Markdown files of the repository, where they are, so that their links work on a
plain git host and on the site. What only the site needs is added here while they are read.
"""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench import public  # noqa: E402

sys.modules["rankbench"] = public  # the name that an installed package has

project = "rankbench"
author = "The rankbench maintainers"
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "results/**.md"]
exclude_patterns = ["build", "docs/conf.py"]

# What the navigation shows, in this order: a caption, and pages with the titles they get there.
NAVIGATION = {
    "Start": {
        "README": "Overview",
        "results/README": "",
        "docs/your_data": "Your own data",
        "docs/python": "From Python",
    },
    "Use": {
        "docs/searches": "Searching for settings",
        "docs/clusters": "More than one process",
        "docs/wandb": "Weights & Biases",
        "docs/reports": "Tables, figures, verdicts",
        "docs/non_local_tasks": "Non-local tasks",
        "docs/speed": "Speed",
        "docs/promises": "Guarantees",
    },
    "Project": {"CONTRIBUTING": "", "CHANGELOG": "", "SECURITY": ""},
    "Reference": {
        "docs/reference/rankbench": "",
        "docs/reference/models": "",
        "docs/reference/learners": "",
        "docs/reference/data": "",
        "docs/reference/controls": "",
        "docs/reference/regularizers": "",
        "docs/reference/measures": "",
        "docs/reference/settings": "",
        "docs/reference/reports": "",
    },
}

html_theme = "furo"
html_title = "rankbench"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = "$ "

myst_heading_anchors = 3
smartquotes_action = "D"  # dashes only
default_role = "py:obj"
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
napoleon_google_docstring = False
napoleon_use_ivar = True

# A link to a folder: on a git host it shows the folder, here the page that stands for it, if any.
FOLDER_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)\)")
PAGES = ("README.md", "table.md")
ANNOTATED = re.compile(r"(?:~?typing\.)?Annotated\[([^,]+), (?:~?[\w.]+\.)?FieldInfo\(.*?\]\)\]")


def prepare(app: Any, name: str, source: list[str]) -> None:
    """Add to a page what only the site has: navigation, figures, and links in place of folders."""
    page = ROOT / f"{name}.md"
    if page.exists():
        source[0] = FOLDER_LINK.sub(lambda found: _to_page(page.parent, found), source[0])
    if name == root_doc:
        source[0] += "".join(_toctree(pages, caption) for caption, pages in NAVIGATION.items())
    elif name == "results/README":
        tables = sorted(page.parent.rglob("table.md"))
        names = [path.parent.relative_to(page.parent).as_posix() for path in tables]
        source[0] += _toctree({f"results/{name}/table": name for name in names})
    elif page.name == "PROVENANCE.md":
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    elif page.name == "table.md":
        title, rest = source[0].split("\n", 1)
        figure = f"![{title[2:]}](figure.png)" * (page.parent / "figure.png").exists()
        source[0] = f"{title}\n\n{figure}\n\n[Where they come from](PROVENANCE.md)\n{rest}"


def _to_page(folder: Path, link: re.Match[str]) -> str:
    """Return a link as it stands on the site."""
    text, target = link.groups()
    if not (folder / target).is_dir():
        return link[0]
    pages = [name for name in PAGES if (folder / target / name).exists()]
    return f"[{text}]({target.rstrip('/')}/{pages[0]})" if pages else f"`{text}`"


def _toctree(pages: dict[str, str], caption: str = "") -> str:
    """Return a hidden table of contents of pages and the titles that they have there."""
    lines = [f"{title} </{name}>" if title else f"/{name}" for name, title in pages.items()]
    options = [":hidden:", *([f":caption: {caption}"] if caption else []), ""]
    return "\n".join(["", "```{toctree}", *options, *lines, "```", ""])


def write_redirect(app: Any, error: Exception | None) -> None:
    """Let the site's top folder lead to its start page."""
    if error is None and app.builder.format == "html":
        url = f"{root_doc}.html"
        refresh = f'<!doctype html><meta http-equiv="refresh" content="0; url={url}">'
        (Path(app.outdir) / "index.html").write_text(f'{refresh}<a href="{url}">{project}</a>\n')


def shorten(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, returns: Any
) -> tuple[str | None, Any]:
    """Write pydantic's bounded types in signatures as the types that they bound."""
    return ANNOTATED.sub(r"\1", arguments) if arguments else arguments, returns


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("source-read", prepare)
    app.connect("autodoc-process-signature", shorten)
    app.connect("build-finished", write_redirect)
