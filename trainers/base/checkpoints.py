"""Checkpoints that are there as a whole or not at all."""

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import sort_checkpoints

from hub_cards.travelling.saving import flush_folder
from hub_cards.whole_files import full_disk_named, written_whole

from .resuming import ORDER, SameOrder

PARTIAL = ".writing"  # in the output folder: the checkpoint that is being written
_REPLACED, _REMOVED = "replaced", "removed"
_SENTINEL = "checkpoint-is-incomplete.txt"  # of transformers' checkpoint at SIGTERM


class WholeCheckpoints(SameOrder):
    """A Trainer that writes a checkpoint beside its place and renames it when it is complete and on the disk.

    A process that is ended, or a disk that is full, leaves the checkpoints that were there, and `get_last_checkpoint`
    (`resume_from_checkpoint=True`) never sees half of one.
    """

    state: Any
    _writing: Path | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; ValueError for a checkpoint behind which other rows would come."""
        if self.args.should_save:
            tidy(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        self.check_order(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._writing is None else str(self._writing)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        try:
            with full_disk_named(folder):
                super()._save(output_dir, state_dict)
        except OSError:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # half of a pickle
            raise

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        if self.args.should_save:
            tidy(run)
        self.accelerator.wait_for_everyone()
        self._writing = run / PARTIAL
        try:
            with full_disk_named(run):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._complete(run)
        except OSError as error:
            _explain(error, run)
            raise
        finally:
            self._writing = None
        self.accelerator.wait_for_everyone()
        self._name_best(run)  # on every process, each of which may load it at the end
        self._remove_old(run)

    def _name_best(self, run: Path, written: str = "") -> None:
        """Let the state say where the best checkpoint is in the end, which may be the one that was just `written`."""
        best = run / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_model_checkpoint is not None and (best.is_dir() or best.name == written):
            self.state.best_model_checkpoint = str(best)

    def _remove_old(self, run: Path) -> None:
        if self.args.should_save and self.args.save_total_limit:
            kept = {run / f"checkpoint-{self.state.global_step}", Path(self.state.best_model_checkpoint or run)}
            remove_old(run, self.args.save_total_limit, kept)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers (5.23) asks behind a step alone whether the run is over: one that is would take another.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            self._remove_old(Path(self.args.output_dir))  # a kill may have come between the last one and this
            return
        super()._run_epoch(*args, **kwargs)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """As in transformers; each file is there as a whole, or the next run could not add to it."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        write_text(folder / f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True))
        every = folder / "all_results.json"
        if combined:
            before = json.loads(every.read_text(encoding="utf-8")) if every.exists() else {}
            write_text(every, json.dumps({**before, **metrics}, indent=4, sort_keys=True))

    def save_state(self) -> None:
        """As in transformers; the file is there as a whole, and names the best checkpoint without its folders."""
        if not self.is_world_process_zero():
            return
        best = self.state.best_model_checkpoint
        state = dataclasses.replace(self.state, best_model_checkpoint=best and Path(best).name)
        with written_whole(Path(self.args.output_dir) / TRAINER_STATE_NAME) as new:
            state.save_to_json(str(new))

    def _complete(self, run: Path) -> None:
        """Bring the checkpoint that was written into its place, with the right path of the best one in its state."""
        written = run / PARTIAL / f"checkpoint-{self.state.global_step}"
        if self.state.best_model_checkpoint is not None:
            self._name_best(run, written.name)
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))
        write_text(written / ORDER, json.dumps(self.data_order(), indent=1))
        flush_folder(written)
        if (run / written.name).exists():  # of the same step, from an earlier run
            os.rename(run / written.name, run / PARTIAL / f"{_REPLACED}-{written.name}")
        os.rename(written, run / written.name)
        flush_folder(run, files=False)
        shutil.rmtree(run / PARTIAL, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """A text into a file, as a whole or not at all."""
    with written_whole(path) as new:
        new.write_text(text, encoding="utf-8")


def remove_old(run: Path, limit: int, kept: set[Path]) -> None:
    """Remove the checkpoints of the lowest steps, but for those in `kept`, until no more than `limit` are left.

    Each leaves its place whole: a process that is ended in between leaves no piece that looks like a checkpoint.
    """
    found = [Path(path) for path in sort_checkpoints(str(run))]
    excess = len(found) - max(limit, len(kept & set(found)))
    (run / PARTIAL).mkdir(exist_ok=True)
    for path in [path for path in found if path not in kept][: max(excess, 0)]:
        os.rename(path, run / PARTIAL / f"{_REMOVED}-{path.name}")
    flush_folder(run, files=False)
    shutil.rmtree(run / PARTIAL, ignore_errors=True)


def tidy(run: Path) -> None:
    """Remove what a process that was ended left half-written in the output folder; a whole checkpoint comes back."""
    for path in (run / PARTIAL).glob(f"{_REPLACED}-*"):
        place = run / path.name.removeprefix(f"{_REPLACED}-")
        if not place.exists():
            os.rename(path, place)
    for path in run.glob("checkpoint-*"):
        if [child.name for child in path.glob("*")] == [_SENTINEL]:
            shutil.rmtree(path)
    shutil.rmtree(run / PARTIAL, ignore_errors=True)


def _explain(error: OSError, run: Path) -> None:
    if error.errno == errno.ENOSPC:
        shutil.rmtree(run / PARTIAL, ignore_errors=True)
        error.add_note(
            f"The checkpoint was not written; those before are whole: free some space in {str(run)!r} (or set "
            "save_total_limit) and train with resume_from_checkpoint=True."
        )
