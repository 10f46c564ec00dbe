"""Guessing the next tokens from the input itself: what followed when the last tokens stood there before.

Retrieved text is there to be taken up again, so guesses are often right. A guess only saves time: the language model
reads several tokens at once, and what it says after a guess counts only if that token is then really chosen.
"""

from collections.abc import Iterable

NGRAMS = (3, 2)  # the longest match first
MAX_GUESSES = 8
FIRST_GUESSES = 4
PAUSE = 16  # tokens without a guess after several wrong ones


class TokenLookup:
    """The tokens read so far, by the n-grams that precede them; and how many guesses are worth it by now."""

    def __init__(self, max_guesses: int):
        self.max_guesses = max_guesses
        self.count = min(FIRST_GUESSES, max_guesses)
        self.pause = 0
        self.start([])

    def start(self, tokens: Iterable[int]) -> None:
        """Begins with another input."""
        self.tokens: list[int] = []
        self.followers: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token behind its last occurrence
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """One more token; it becomes the follower of the n-grams before it."""
        for size in NGRAMS:
            if len(self.tokens) >= size:
                self.followers[tuple(self.tokens[-size:])] = len(self.tokens)
        self.tokens.append(token)

    def guess(self, room: int) -> list[int]:
        """The next tokens, at most `room`, as they stood behind the last occurrence of the last n-gram."""
        if self.pause > 0:
            self.pause -= 1
            return []
        for size in NGRAMS:
            start = self.followers.get(tuple(self.tokens[-size:]))
            if start is not None:
                return self._copy(start, min(self.count, room))
        return []

    def _copy(self, start: int, count: int) -> list[int]:
        """`count` tokens from `start` on; what comes again in short periods goes on with its own beginning."""
        copied: list[int] = []
        for index in range(start, start + count):
            copied.append(self.tokens[index] if index < len(self.tokens) else copied[index - len(self.tokens)])
        return copied

    def learn(self, guessed: int, right: int) -> None:
        """More guesses after right ones, fewer after wrong ones."""
        if right == guessed:
            self.count = min(2 * self.count, self.max_guesses)
        elif not right:
            self.pause = PAUSE if self.count == 1 else 0
            self.count = max(self.count // 2, 1)
