"""What holds for every page: what a screen reader needs, and nothing that the policy forbids."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "link", "input", "br", "img", "hr"}
_FIELDS = {"input", "select", "textarea"}


class Page(HTMLParser):
    """A page as its elements: pairs of tag and attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.labelled: set[int] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in _FIELDS and "label" in self.open:
            self.labelled.add(len(self.elements) - 1)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def by_id(self, id: str) -> dict[str, str]:
        (found,) = (attributes for _, attributes in self.elements if attributes.get("id") == id)
        return found

    def check(self) -> None:
        """Raises AssertionError."""
        ids = [attributes["id"] for _, attributes in self.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), sorted(id for id in ids if ids.count(id) > 1)
        assert len(self.all("h1")) == len(self.all("main")) == len(self.all("nav")) == 1
        assert self.all("html")[0]["lang"] == "en"
        labels = {attributes.get("for") for attributes in self.all("label")}
        for index, (tag, attributes) in enumerate(self.elements):
            assert "style" not in attributes, attributes
            assert not [name for name in attributes if name.startswith("on")], attributes
            if tag == "script":
                assert attributes["src"].startswith("/static/")
            for name in ("href", "action", "src"):
                assert attributes.get(name, "/").startswith(("/", "#")), attributes
                assert not attributes.get(name, "/").startswith("//"), attributes
            for name in ("aria-describedby", "aria-labelledby", "for"):
                for id in attributes.get(name, "").split():
                    assert id in ids, (tag, name, id)
            if tag in _FIELDS and attributes.get("type") != "hidden":
                named = index in self.labelled or attributes.get("id") in labels or "aria-label" in attributes
                assert named, attributes
            if tag == "th":
                assert attributes.get("scope") in ("col", "row"), attributes
            if tag == "svg" and attributes.get("aria-hidden") != "true":
                assert attributes["role"] == "img", attributes
        assert len(self.all("caption")) >= len(self.all("table"))
