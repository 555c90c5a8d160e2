"""The site: ``sphinx-build -W -c docs . OUT``, from the root of the repository.

The root is what Sphinx reads from, so that a link from one file of the repository to another holds
here as it does there.
"""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
# Help texts and tables are not to depend on who builds.
os.environ["COLUMNS"] = "100"

project = "oodbench"
author = "the authors of oodbench"
release = version = installed("oodbench")

extensions = [
    "myst_parser",
    "plugin_pages",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
root_doc = "README"
exclude_patterns = [".*", "build", "dist", "oodbench", "results", "tests"]
include_patterns = ["README.md", "docs/**.md", "docs/**.rst", "benchmarks/*.md"]

# Single backticks in docstrings name objects; those that have no place here are shown as code.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

# An option is --eps, no dash of any length.
smartquotes = False

html_theme = "pydata_sphinx_theme"
html_title = "oodbench"
html_context = {"default_mode": "auto"}
# A section of one page has nothing to stand beside it.
html_sidebars = {
    f"docs/{page}": [] for page in ("commands", "detectors", "attacks_reference", "api")
}
html_extra_path = ["_root"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "use_edit_page_button": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
copyright = "the authors of oodbench, MIT licence"

_CONTENTS = """
```{toctree}
:hidden:

docs/guide
docs/commands
docs/detectors
docs/attacks_reference
docs/api
docs/evidence
```
"""


def setup(app: Sphinx) -> None:
    """Give the README, which is the first page, what only a site needs, and fields their dashes."""

    def with_contents(app: Sphinx, page: str, source: list[str]) -> None:
        if page == root_doc:
            source[0] += _CONTENTS

    def with_dashes(app: Sphinx, page: nodes.document) -> None:
        # Sphinx writes them as hyphens between a parameter and what it is.
        for body in page.findall(nodes.field_body):
            for text in list(body.findall(nodes.Text)):
                if text.startswith(" -- "):
                    text.parent.replace(text, nodes.Text(f" – {text[4:]}"))

    app.connect("source-read", with_contents)
    app.connect("doctree-read", with_dashes)
