"""What an inspection has to say."""

from dataclasses import dataclass

REFUSED, WARNING = "refused", "warning"


@dataclass(frozen=True)
class Finding:
    """One thing about one file: `level` is REFUSED (not safe to load) or WARNING (for a person to judge)."""

    level: str
    file: str
    message: str

    def __str__(self) -> str:
        return f"{self.level:<8} {printable(self.file)}: {self.message}"


def printable(text: str) -> str:
    """`text` without what would write over a terminal: control characters are escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
