"""A small English stop-word list: words that say little about what a passage is about."""

STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before being below between
    both but by can could did do does doing down during each few for from further had has have having he her here hers
    herself him himself his how i if in into is it its itself just may me might more most must my myself no nor not now
    of off on once only or other our ours ourselves out over own same shall she should so some such than that the their
    theirs them themselves then there these they this those through to too under until up upon us very was we were what
    when where which while who whom whose why will with would you your yours yourself
    yourselves""".split()  # noqa: SIM905  (easier to read than 130 quoted words)
)
_EDGES = ".,;:!?\"'()[]{}"


def without_stop_words(text: str, stop_words: frozenset[str] = STOP_WORDS) -> str:
    """The words of `text` that are not stop words, joined by single spaces; case and outer punctuation do not count.

    >>> without_stop_words("The lantern is on the island, and it is copper.")
    'lantern island, copper.'
    """
    return " ".join(word for word in text.split() if word.strip(_EDGES).lower() not in stop_words)
