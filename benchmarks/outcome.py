"""What a row says: one line of the table."""

from dataclasses import dataclass
from statistics import median
from typing import NamedTuple


class Check(NamedTuple):
    """Whether two sides gave the same, and in words what was compared."""

    equal: bool
    text: str


class Ratio(NamedTuple):
    """Median, lowest and highest of the repeats."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Ratio":
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


class Mark(NamedTuple):
    """The ratio to reach: at least `value`, or at most."""

    value: float
    at_most: bool = False

    def reached(self, ratio: float) -> bool:
        return ratio <= self.value if self.at_most else ratio >= self.value

    def __str__(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {self.value:g}"


@dataclass(frozen=True)
class Outcome:
    """One measurement of a row.

    Args:
        measure: "time", "peak memory" or whatever else the ratio is one of; a ratio is theirs / ours.
        other: what the other side is.
        check: the equality check; where it failed there is no ratio.
        ours, theirs: the medians, with their unit.
        throughput: FLOP/s of a matrix product in the same run. share: of the limit, FLOPs / (throughput * seconds).
        detail: a Markdown table of its own, for a row that has more to say than one ratio.
    """

    row: str
    size: str
    measure: str
    other: str
    check: Check
    ratio: Ratio | None = None
    ours: str = "-"
    theirs: str = "-"
    mark: Mark | None = None
    throughput: float | None = None
    share: float | None = None
    note: str = ""
    detail: str = ""

    @property
    def equal(self) -> bool:
        return self.check.equal

    @property
    def verdict(self) -> str:
        """FAIL, yes or no for the mark, or a dash where there is no mark."""
        if self.ratio is None:
            return "FAIL"
        if self.mark is None:
            return "-"
        return "yes" if self.mark.reached(self.ratio.median) else "no"

    def describe(self) -> str:
        """The line printed as soon as the row is done."""
        head = f"{self.row} {self.size} {self.measure}, against {self.other}"
        if self.ratio is None:
            return f"{head}: FAIL, not equal: {self.check.text}"
        mark = f", mark {self.mark}: {self.verdict}" if self.mark else ""
        rest = [f"{head}: {self.ratio}{mark}; {self.check.text}", self.note, self.detail]
        return "\n".join(text for text in rest if text)
