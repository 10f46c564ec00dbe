"""A run that goes on from a checkpoint takes the rows that come next, or says why it cannot."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from .streams import order_seed

ORDER = "data_order.json"  # in a checkpoint, beside trainer_state.json
_LOOKED_AT = 64  # rows
_NAMES = {
    "rows_a_step": "rows a step (processes x per_device_train_batch_size x gradient_accumulation_steps)",
    "rows_a_batch": "rows a batch (processes x per_device_train_batch_size) of several data sets",
    "rows_a_share": "rows a step of a process, by which lengths are grouped,",
    "rows": "rows in train_dataset",
    "digest": "contents of train_dataset",
}


class SameOrder(Trainer):
    """A Trainer whose checkpoints say what the order of its rows depends on, and that compares it before it goes on.

    More steps or epochs are no other order; with `ignore_data_skip` nothing has to be found again.
    """

    args: Any
    accelerator: Any
    train_dataset: Any

    def data_order(self) -> dict[str, Any]:
        """What has to be as it was, for the next row to be the next one."""
        args, several = self.args, len(getattr(self.train_dataset, "parts", ())) > 1
        batch = args.train_batch_size * (1 if args.accelerator_config.split_batches else args.world_size)
        known, steps = not args.auto_find_batch_size, args.gradient_accumulation_steps
        by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        count, digest = self._rows_known
        return {
            "rows_a_step": batch * steps if known else None,
            "rows_a_batch": batch if known and several else None,
            "rows_a_share": args.train_batch_size * steps if known and by_length else None,
            "rows": count,
            "digest": digest,
            "seed": args.seed,
            "data_seed": order_seed(args),
            "train_sampling_strategy": str(args.train_sampling_strategy),
            "dataloader_drop_last": args.dataloader_drop_last,
        }

    @cached_property
    def _rows_known(self) -> tuple[int | None, str | None]:
        """(number of rows, what they are), of a stream None."""
        rows = getattr(self.train_dataset, "rows", None)
        return (len(rows), _digest(rows)) if rows is not None and hasattr(rows, "__len__") else (None, None)

    def check_order(self, checkpoint: str | bool | None) -> None:
        """ValueError for a checkpoint behind which other rows would come; older ones do not say, and go on."""
        folder = get_last_checkpoint(str(self.args.output_dir)) if checkpoint is True else checkpoint
        if not folder or self.args.ignore_data_skip or not (Path(folder) / ORDER).is_file():
            return
        before, now = json.loads((Path(folder) / ORDER).read_text(encoding="utf-8")), self.data_order()
        for name, value in now.items():
            if name in before and before[name] != value:
                raise ValueError(
                    f"resume_from_checkpoint={str(folder)!r} was written with {_NAMES.get(name, name)}="
                    f"{before[name]!r}, and this run has {value!r}, so that it would go on at other rows: set it as "
                    "it was, train anew, or set ignore_data_skip=True."
                )


def _digest(rows: Any) -> str:
    """Of some rows from the first to the last, which does not take long with any number of them."""
    count = len(rows)
    places = sorted({number * (count - 1) // (_LOOKED_AT - 1) for number in range(_LOOKED_AT)})
    found = hashlib.sha256()
    for place in places:
        found.update(json.dumps(rows[place], sort_keys=True, default=str).encode())
    return found.hexdigest()[:16]
