"""Rates, settings and names as text for people."""


def as_text(eps: float) -> str:
    """An eps as a person writes it: 0.3, or 8/255; reading it gives the same number."""
    if float(f"{eps:g}") == eps:
        return f"{eps:g}"
    levels = round(eps * 255)
    return f"{levels}/255" if levels / 255 == eps else str(eps)


def percent(value: float | None, digits: int = 1) -> str:
    """A rate for people; undefined is n/a, never 0."""
    return "n/a" if value is None else f"{100 * value:.{digits}f} %"


def shown(name: str) -> str:
    """A name out of somebody's files as it may stand in a message: quoted, one line, at most 60 characters."""
    return repr(name if len(name) <= 60 else f"{name[:59]}\N{HORIZONTAL ELLIPSIS}")
