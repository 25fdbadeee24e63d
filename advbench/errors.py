"""The errors a user can cause, each one sentence: the value, the rule, the way out. Anything else raised is a bug."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal


class AdvbenchError(Exception):
    """Base of every error whose text is meant for a user; `exit_code` is the process's exit status."""

    exit_code = 2

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class BadSetting(AdvbenchError):
    """A value outside its allowed range or of the wrong type."""


class Diverged(BadSetting):
    """A training whose loss is no longer finite; `epoch` counts from 1."""

    def __init__(self, epoch: int, learning_rate: float) -> None:
        self.epoch = epoch
        super().__init__(
            f"training diverged in epoch {epoch}: the loss is not finite; try a learning_rate below {learning_rate:g}"
        )


class UnknownName(BadSetting):
    """A name that is not among the known ones; the text suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = get_close_matches(name[:100].lower(), known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"no {kind} named {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


class BrokenPlugin(BadSetting):
    """A plug-in whose file cannot be used."""

    def __init__(self, kind: str, name: str, why: str) -> None:
        super().__init__(f"{kind} {name!r} is broken: {' '.join(why.split())}; mend its file, or take it away")


class MissingLibrary(BadSetting):
    """A library that cannot be imported, because it is not there or does not fit the others."""

    def __init__(self, what: str, library: str, why: str, packages: str) -> None:
        why = " ".join(why.split())
        super().__init__(f"{what} needs {library}, which cannot be imported ({why}); pip install -U {packages}")


class TooFewImages(BadSetting):
    """Too few calibration images to fix a threshold at a false-positive rate."""


class BadData(AdvbenchError):
    """Data that cannot be used as they are; `faults` holds a sentence for each reason, told all at once."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        listed = "; ".join(f"({i}) {fault}" for i, fault in enumerate(faults, 1))
        super().__init__(faults[0] if len(faults) == 1 else f"{len(faults)} faults: {listed}")


class BadRun(AdvbenchError):
    """A file of a run that is missing, altered or unreadable."""


class Damaged(BadRun):
    """A file of a run that is missing, truncated or altered: the command that made it can make it again."""


class Unreadable(BadRun):
    """A file that the system does not let be read: no permission, too many open files, a failing disk."""


class Renamed(BadRun):
    """A run in a folder that does not bear its name."""


class Misfit(BadRun):
    """Weights of a run that are not those of the model as its plug-ins build it now."""


class FailedCheck(AdvbenchError):
    """A result that breaks the contract it was made under."""

    exit_code = 1


class FailedCells(AdvbenchError):
    """Cells of a study that could not be performed; the others are done."""

    exit_code = 1

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Diagnostic:
    """A fault or doubt about a user's model or data."""

    name: str  # with hyphens, for records and tests
    severity: Literal["error", "warning"]  # an error would make numbers wrong, a warning is reported beside them
    text: str  # one sentence: the value, the rule, the way out


def refuse(name: str, text: str) -> Diagnostic:
    """A diagnostic that forbids going on."""
    return Diagnostic(name, "error", text)


def warn(name: str, text: str) -> Diagnostic:
    """A diagnostic that is reported."""
    return Diagnostic(name, "warning", text)


def enforce(found: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The warnings; raises BadSetting with the first error's text."""
    kept = tuple(found)
    if errors := [finding for finding in kept if finding.severity == "error"]:
        raise BadSetting(errors[0].text)
    return kept


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
