"""
The site. ``make docs`` builds it: ``sphinx-build -n -W -c docs . build/docs/html``.

The source directory is the whole repository. So a page stands where a reader of the repository finds it, and a relative link, such as
``../../integrations/envoy/README.md``, leads to the same page there and in the site.
"""

# ruff: noqa: ARG001 - Sphinx calls with all arguments

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import inspect
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

project = "request-tenancy"
author = "The request-tenancy developers"
project_copyright = author
release = version = version_of("request-tenancy")

root_doc = "docs/index"
source_suffix = {".md": "markdown"}
include_patterns = ["docs/**", "examples/**", "integrations/**", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"]
exclude_patterns = [".*", "build", "dist", "src", "tests"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_heading_anchors = 3  # by the rule that repository browsers follow, so that a link with a fragment works in both

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore = [
    ("py:obj", "logging"),
    ("py:exc", "MiddlewareNotUsed"),
    ("py:exc", "KafkaException"),
    ("py:exc", "ConsumerStoppedError"),
]
nitpick_ignore_regex = [
    # Other people's names: their inventories are elsewhere, and the build needs no network.
    (r"py:.*", r"(?!tenancy\.)[\w.]*\.\w+"),
    # What only type checkers see: aliases, private types, type variables.
    (r"py:class", r"~?\w+"),
    (r"py:class", r"tenancy\..*\.(?:_\w+|[PRT]|\w+T)"),
]

html_theme = "furo"
html_title = f"request-tenancy {release}"
html_static_path = ["_static"]
html_extra_path = ["_root"]  # so that the address of the site itself leads to its first page
html_css_files = ["site.css"]
html_show_sourcelink = False
copybutton_prompt_text = "$ "


def _is_field(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """
    Leave out the fields of named tuples, which their class describes.
    """
    return True if type(obj).__name__ == "_tuplegetter" else None


def _keep_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """
    Keep napoleon from taking the text before a colon for the type of a variable.
    """
    if what in ("attribute", "data", "property", "type") and lines:
        lines[:0] = ["..", ""]


def _own_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, None] | None:
    """
    Show the arguments of ``__init__`` for classes that are the inner thing itself where tenancy is switched off.
    """
    if what == "class" and signature is not None and "**_" in signature:
        return stringify_signature(inspect.signature(obj.__init__, bound_method=True), show_annotation=False), None
    return None


def _short_name(app: Sphinx, env: BuildEnvironment, node: Any, contnode: Any) -> Any:
    """
    Find a name of ours that stands in a docstring without its module: the one of `tenancy` itself, else the only one there is. Where there
    are several, such as `TenancyMiddleware`, it is no link.
    """
    target = node["reftarget"]
    objects = env.domains.python_domain.objects
    found = [
        name
        for name, entry in objects.items()
        if name.endswith(f".{target}") and not entry.aliased and entry.objtype not in ("attribute", "method", "property")
    ]
    full = f"tenancy.{target}"
    if node["refdomain"] != "py" or not found:
        return None
    if full not in found and len(found) > 1:
        return contnode
    entry = objects[full if full in found else found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, full)


def _plain_types(app: Sphinx, doctree: nodes.document) -> None:
    """
    Show ``~module.Name`` as ``Name`` also where Sphinx takes a type for plain text, as it does with literals in it.
    """
    for text in list(doctree.findall(nodes.Text)):
        if "~" in text and isinstance(text.parent, nodes.emphasis):
            text.parent.replace(text, nodes.Text(re.sub(r"~(?:\w+\.)*", "", text)))


def setup(app: Sphinx) -> None:
    # Overloads are for type checkers; a reader is shown the signature behind them.
    ModuleAnalyzer.overloads = property(lambda _: {}, lambda *_: None)
    app.connect("autodoc-skip-member", _is_field)
    app.connect("autodoc-process-docstring", _keep_colons, priority=400)
    app.connect("autodoc-process-signature", _own_signature)
    app.connect("doctree-read", _plain_types)
    app.connect("missing-reference", _short_name)
