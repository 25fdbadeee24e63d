"""Recorded and foreign text as a terminal, a page and a message may hold it: without control characters."""

from __future__ import annotations

import contextlib

JOINERS = "\u200c\u200d"  # spelling of Persian and of many emoji
LONGEST = 1800  # characters of a message


def printable(text: str) -> str:
    """The text with what is no character (escapes, line feeds, turns of its direction) by its number."""
    with contextlib.suppress(UnicodeEncodeError):  # no surrogates, or those that stand for bytes of a file's name
        text = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """The same, of a very long text the first 1,350 and the last 450 characters: a message ends in the way out."""
    long = len(text) > LONGEST
    return printable(f"{text[: LONGEST * 3 // 4]} ... {text[-LONGEST // 4 :]}" if long else text)
