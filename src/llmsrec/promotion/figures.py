"""Figures against their limits, as the gate's rules look at them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One number (or digest, or word) that a rule looks at.

    Attributes:
        name: what it is of.
        value: what was found.
        interval: low and high of `value`, where it is a mean over users.
        limit: what it must be, in words; empty for what is only reported.
        holds: whether it is so; None for what is only reported.
        short: by how much it is not, in the figure's unit.
        warns: whether people should read it before they go on, though no rule is broken.
    """

    name: str
    value: float | str
    interval: tuple[float, float] | None = None
    limit: str = ""
    holds: bool | None = None
    short: float | None = None
    warns: bool = False

    def __str__(self) -> str:
        return f"{self.name}: {self.shown()}" + (f" (must be {self.limit})" if self.limit else "")

    def shown(self) -> str:
        """The value as people read it, with its interval."""
        value = self.value if isinstance(self.value, str) else f"{self.value:.4g}"
        return value if self.interval is None else f"{value} [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"


def estimated(name: str, interval: dict[str, float]) -> Figure:
    """A mean or a difference with its interval, which is only reported."""
    middle = interval["mean"] if "mean" in interval else interval["difference"]
    return Figure(name, middle, (interval["low"], interval["high"]))


def above(name: str, value: float, limit: float) -> Figure:
    """`value` must be above `limit`."""
    return Figure(name, value, None, f"above {limit:g}", value > limit, None if value > limit else limit - value)


def below(name: str, value: float, limit: float) -> Figure:
    """`value` must be below `limit`."""
    return Figure(name, value, None, f"below {limit:g}", value < limit, None if value < limit else value - limit)


def at_least(name: str, value: float, limit: float, interval: tuple[float, float] | None = None) -> Figure:
    """`value` must be `limit` or more; `interval` is shown beside it."""
    return Figure(
        name, value, interval, f"at least {limit:g}", value >= limit, None if value >= limit else limit - value
    )


def at_most(name: str, value: float, limit: float) -> Figure:
    """`value` must be `limit` or less."""
    return Figure(name, value, None, f"at most {limit:g}", value <= limit, None if value <= limit else value - limit)


def equal(name: str, value: str, expected: str) -> Figure:
    """A word that must be `expected`."""
    return Figure(name, value, None, expected, value == expected)


def same(name: str, digest: str | None, expected: str) -> Figure:
    """A digest that must be `expected`; the two are compared whole and shown by their beginning."""
    return Figure(name, digest[:12] if digest else "not recorded", None, expected[:12], digest == expected)
