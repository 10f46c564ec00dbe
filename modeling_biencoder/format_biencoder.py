# Copied from hub_cards/travelling/format.py by "make copies": edit that one.
"""The version of the form in which a repo is saved, `lookback_format` of its config.json.

It goes up when code that is out already would read a repo saved from now on wrongly; a setting with a default that
means what was there before needs no new version. The code of a model on the Hub brings all that it needs, so each
family's folder has this file, letter for letter.

| format | written by |
|---|---|
| 1 | 0.1.0, which did not name it, and later |
"""

FORMAT = 1


def check_format(saved: object) -> int:
    """The version that repos are written in, where one of version `saved` (None: it names none) can be read.

    Raises ValueError for a version that is newer, or none at all.
    """
    version = 1 if saved is None else saved
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"lookback_format is {saved!r} in config.json; it must be a whole number of 1 or more.")
    if version > FORMAT:
        raise ValueError(
            f"The repo is in format {version} (lookback_format of its config.json), and this Lookback reads formats "
            f"up to {FORMAT}: upgrade Lookback. Without Lookback, trust_remote_code=True runs the repo's own code."
        )
    return FORMAT
