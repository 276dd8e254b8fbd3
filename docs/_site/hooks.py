"""What the site has beyond docs/: pages that lie elsewhere, a reference of every public name, and checks that fail."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

OUTSIDE = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository's root, and the pages that they become."""

PUBLIC = (
    "",
    "zoo",
    "embed",
    "index",
    "evaluation",
    "curation",
    "explorer",
    "adaptation",
    "export",
    "lite",
    "losses",
    "methods",
    "augment",
)


# Pages ----------------------------------------------------------------------------------------------------------------


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/ and the reference."""
    for file, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    package = griffe.load("clzoo", search_paths=[str(ROOT)], resolve_aliases=True, docstring_parser="google")
    undocumented: list[str] = []
    for name in PUBLIC:
        module = package[name] if name else package
        things = [public_thing(module[export]) for export in exports_of(module) if not export.startswith("__")]
        undocumented += [name for thing in things for name in bare(thing)]
        blocks = [f"::: {thing.path}" for thing in things if not thing.is_module]
        head = f"# {module.path}\n\n{module.docstring.value if module.docstring else ''}\n\n"
        content = head + "\n\n".join(blocks) + "\n"
        files.append(File.generated(config, f"reference/{module.path}.md", content=content))
    if undocumented:
        raise PluginError("public names without a docstring:\n" + "\n".join(undocumented))
    return files


def exports_of(module: Any) -> list[str]:
    """Names of `__all__`, which the linter keeps sorted."""
    return [str(export if isinstance(export, str) else export.name) for export in module.exports or ()]


def public_thing(thing: Any) -> Any:
    """What a user gets by this name: of a function in a file of its own name the function, not the file."""
    name = thing.path.rpartition(".")[2]
    return thing.members[name] if thing.is_module and name in thing.members else thing


def bare(thing: Any) -> Iterator[str]:
    """Public functions and classes without a docstring, at any depth; a constant is explained by its neighbors."""
    thing = thing.final_target if thing.is_alias else thing
    if thing.is_module or (thing.is_attribute and "property" not in thing.labels):
        return
    if not thing.has_docstring:
        yield thing.path
    if thing.is_class:
        for name, member in thing.members.items():
            if not name.startswith("_") and not member.is_alias:
                yield from bare(member)


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as they are written in the repository -> links of the site; what is no page keeps its words alone."""
    sources = {page_: ROOT / file for file, page_ in OUTSIDE.items()}
    source = sources.get(page.file.src_uri, DOCS / page.file.src_uri)
    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", lambda link: relinked(link, source, page.file.src_uri), markdown)


def relinked(link: re.Match[str], source: Path, page: str) -> str:
    """One Markdown link of the file `source`, which became `page`."""
    image, words, target = link.groups()
    place, _, anchor = target.partition("#")
    if urlsplit(target).scheme or not place:
        return link.group()
    file = Path(os.path.normpath(source.parent / place))
    if not file.exists():
        return link.group()  # a dead link, which the build reports
    if file.is_relative_to(DOCS) and file.is_file():
        new = file.relative_to(DOCS).as_posix()
    elif (name := file.relative_to(ROOT).as_posix()) in OUTSIDE:
        new = OUTSIDE[name]
    else:
        return words  # a file of the repository that is not part of the site
    relative = posixpath.relpath(new, posixpath.dirname(page) or ".")
    return f"{image}[{words}]({relative}{'#' + anchor if anchor else ''})"


def on_page_content(html: str, page: Any, files: Files, **_: Any) -> str:
    """Notebooks: links to pages, which no Markdown parser has seen; and no script from elsewhere (diagrams)."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r"<script[^>]*>(?:(?!</script>).)*https?://(?:(?!</script>).)*</script>", "", html, flags=re.DOTALL)

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), match[1]))
        file = files.get_file_from_path(target)
        return f'href="{file.url_relative_to(page.file)}' if file else match[0]

    return re.sub(r'href="(?!https?:)([^"#]+\.(?:md|ipynb))', link, html)


# Checks ---------------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        values = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := values.get(key))}
        self.targets += [value for key in ("href", "src") if (value := values.get(key))]
        is_loaded = tag in ("script", "img", "iframe") or (tag == "link" and values.get("rel") == "stylesheet")
        self.loaded += self.targets[-1:] if is_loaded and ("src" in values or "href" in values) else []


def on_post_build(config: Any) -> None:
    """Every link of every page leads to a file of the site and an anchor of it; nothing is loaded from elsewhere."""
    site = Path(config["site_dir"])
    pages = {page: Links(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}
    dead = []
    for page, links in pages.items():
        dead += [f"{page.relative_to(site)} loads {url}" for url in links.loaded if urlsplit(url).netloc]
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
            file = file / "index.html" if file.is_dir() else file
            anchor = unquote(parts.fragment)
            is_anchor = not anchor or file not in pages or anchor in pages[file].anchors
            if not file.is_file() or not is_anchor:
                dead.append(f"{page.relative_to(site)}: {target}")
    if dead:
        raise PluginError("dead links:\n" + "\n".join(dead))
