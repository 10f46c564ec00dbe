"""Whether every row of a data set has a loss to train it, before training rather than at the batch that has none."""

from typing import TYPE_CHECKING, Any

import datasets

if TYPE_CHECKING:
    from .mixture import MixturePart


def check_objectives(part: "MixturePart", args: Any) -> None:
    """ValueError for a data set, or the first of its rows, that no loss with a weight above 0 is there for.

    `args` are the Trainer's. Of a stream the rows are not looked at.
    """
    objectives = args.objectives()
    in_batch = args.in_batch_negatives if part.in_batch_negatives is None else part.in_batch_negatives
    in_batch = in_batch and not part.scored
    taught = part.scored or (args.use_teacher_scores and part.group_size > 1)
    try:
        objectives.present(part.group_size, in_batch, taught)
    except ValueError as error:
        raise ValueError(f"Data set {part.name!r}: {error}") from error
    try:
        objectives.present(part.group_size, in_batch, False)
    except ValueError as error:
        row = _first_without_scores(part.rows)
        if row is not None:
            raise ValueError(
                f"Data set {part.name!r}: row {row} (the first is 0) has no teacher scores, and no loss without them "
                f"has a weight above 0: score it, leave it out, or raise contrastive_weight."
            ) from error


def _first_without_scores(rows: Any) -> int | None:
    if not isinstance(rows, datasets.Dataset):
        return None
    missing = rows.select_columns("pos_scores").with_format("arrow")[:].column(0).is_null()
    found = missing.index(True).as_py()
    return None if found < 0 else found
