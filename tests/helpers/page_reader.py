"""A report's page read as HTML."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from advbench import cli

Row = dict[str, Any]


VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Element:
    """A tag of the page with its attributes and all the text inside."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Text inside, white space as a reader sees it."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    def all(self, *tags: str) -> list[Element]:
        """Every element below with one of these tags (any where none is named)."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                found += [child] if not tags or child.tag in tags else []
                found += child.all(*tags)
        return found

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name) or ""


class Reader(HTMLParser):
    """Builds the tree; a tag that closes another than the last opened one is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert self.open == [self.root], f"never closed: {[e.tag for e in self.open[1:]]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def advbench(*words: str | Path) -> list[Row]:
    """Rows of a command line that succeeds."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main([*map(str, words), "--json"])
    assert code == 0, err.getvalue()
    rows: list[Row] = json.loads(out.getvalue())["rows"]
    return rows


@dataclass(frozen=True)
class Page:
    """A study's folder, the rows of its report, and the page."""

    folder: Path
    rows: list[Row]
    source: str
    tree: Element

    def table(self, caption: str) -> list[list[str]]:
        """Texts of the table's cells, head first, for the table whose caption begins so."""
        (table,) = (t for t in self.tree.all("table") if any(c.text.startswith(caption) for c in t.all("caption")))
        return [[cell.text for cell in line.all("th", "td")] for line in table.all("tr")]


def assert_loads_nothing(tree: Element) -> None:
    """No script, no event handler, no address but those of the page itself and of embedded data."""
    assert tree.all("script", "link", "iframe", "object", "embed", "base", "form", "foreignobject") == []
    for element in tree.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"):
                assert (value or "").startswith(("#", "data:image/png;base64,")), (element.tag, name, value)
            if not name.startswith("xmlns"):
                assert "http:" not in (value or "")
                assert "https:" not in (value or "")
                assert "url(" not in (value or "").replace("url(#", "")
    for style in tree.all("style"):
        assert "@import" not in style.text
        assert "url(" not in style.text
        assert "http" not in style.text


def assert_well_formed(tree: Element) -> None:
    """No id and no label of a chart twice; every line of a table has as many cells as its head."""
    ids = [e["id"] for e in tree.all() if "id" in e.attributes]
    labels = [e["aria-label"] for e in tree.all("svg")]
    assert (len(set(ids)), len(set(labels))) == (len(ids), len(labels))
    for table in tree.all("table"):
        (top,) = table.all("thead")
        width = len(top.all("th"))
        assert all(len(line.all("th", "td")) == width for body in table.all("tbody") for line in body.all("tr"))


def per_cent(value: float | None) -> str:
    """As on the page."""
    return "n/a" if value is None else f"{value * 100:.1f} %"


def ends(low: float | None, high: float | None) -> str:
    """As on the page."""
    return "[n/a]" if low is None or high is None else f"[{low * 100:.1f}, {high * 100:.1f}]"


def outside_audits(tree: Element) -> list[Element]:
    """The lines of all tables but the audits'."""
    tables = [t for t in tree.all("table") if "believable" not in t.all("caption")[0].text]
    return [line for table in tables for line in table.all("tr")]
