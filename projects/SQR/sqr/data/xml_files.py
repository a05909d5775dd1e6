"""Parses untrusted XML without entities, so that a file can neither expand without bound nor read other files."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.parsers import expat


def parse_xml(path: str) -> ElementTree.Element:
    """The root element of a file.

    Raises:
        ValueError: invalid XML, or XML that declares entities.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read()
    guard = expat.ParserCreate()
    guard.EntityDeclHandler = _refuse
    try:
        guard.Parse(data, True)
        return ElementTree.fromstring(data)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise ValueError(f"it is not valid XML: {error}") from None


def root_tag(path: str) -> str | None:
    """The name of the first element; None if the beginning of the file is not XML."""
    tags: list[str] = []
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = lambda name, _: tags.append(name)
    try:
        with open(path, "rb") as file:
            parser.Parse(file.read(4096), False)
    except (OSError, ValueError, LookupError, expat.ExpatError):
        pass  # errors after the first element are reported when the file is read
    return tags[0] if tags else None


def _refuse(name: str, *_: object) -> None:
    raise ValueError(f"it declares the entity {name!r}, which annotations do not need")
