"""A Trainer's way to the Hub: our own push, without pickles, with a card that keeps what a person wrote."""

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.utils import filter_repo_objects
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import PushInProgress, logging

from hub_cards import push
from hub_cards.transfer.retries import retried
from hub_cards.transfer.transfer import BYPRODUCTS, PICKLES

PUSHING = ".pushing-"  # and so on, in the output folder: a checkpoint that is being sent
_RESUMING = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)
# Of DeepSpeed and FSDP, beside the pickles.
_SHARDED = ("global_step*", "pytorch_model_fsdp*", "optimizer_*", "latest", "zero_to_fp32.py")

logger = logging.get_logger(__name__)


class PushingTrainer(Trainer):
    """A Trainer whose pushes are single commits of the model alone: safetensors, code, tokenizer, card.

    With `hub_strategy="end"` (push when `save_model` or `push_to_hub` is called) and `"every_save"` no pickle leaves
    the machine. `"checkpoint"` and `"all_checkpoints"` send, for resuming elsewhere, the optimizer's and the random
    generators' state too, which are pickles, in a folder of their own (`last-checkpoint`, `checkpoint-N`) that
    `lookback pull` and `from_pretrained` leave alone.
    """

    args: Any
    state: Any
    hub_model_id: Any
    push_in_progress: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.push_to_hub and self.args.hub_strategy in _RESUMING:
            logger.warning(
                f"hub_strategy={self.args.hub_strategy.value!r} sends optimizer.pt and other pickles, which resuming "
                'needs. Only resume from a repo that you trust; "every_save" sends the model alone.'
            )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in transformers, tried again where the Hub is busy."""
        if private is not None:  # an argument of its own in transformers since 5.23 alone
            self.args.hub_private_repo = private
        retried(partial(super().init_hf_repo, token=token), "making the repo")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and send it to `args.hub_model_id` in one commit; arguments as in transformers.

        Returns: the commit; with `blocking=False` a Future of it; None on other processes than the first.

        Raises TransferError where the push broke off; the repo is as it was.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        private = private if private is not None else self.args.hub_private_repo
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        send = partial(
            push, self.args.output_dir, self.hub_model_id, token=token, private=private,
            revision=revision or self.args.hub_revision, commit_message=commit_message or "End of training",
        )  # fmt: skip
        return send() if blocking else HfApi().run_as_future(send)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers."""
        if self.is_world_process_zero():
            for path in Path(self.args.output_dir).glob(f"{PUSHING}*"):  # of a process that was ended
                shutil.rmtree(path, ignore_errors=True)
        return super().train(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        # Here rather than in a callback's on_save, which transformers does not call for the checkpoint at SIGTERM.
        if self.args.push_to_hub:
            self._push_checkpoint(Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: transformers calls this before the checkpoint is in its place."""

    def _push_checkpoint(self, checkpoint: Path) -> None:
        """Send the model of a checkpoint, in the background; with a strategy for resuming, all of it."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # Links, so that the checkpoint may be deleted while it is being sent.
        copy = Path(tempfile.mkdtemp(prefix=PUSHING, dir=self.args.output_dir))
        files = [path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if path.is_file()]
        left_out = [*PICKLES, *BYPRODUCTS, *_SHARDED]
        model = list(filter_repo_objects(files, ignore_patterns=left_out))
        _link(checkpoint, copy / "model", model)
        beside: dict[str, Path] = {}
        if self.args.hub_strategy in _RESUMING:
            all_of_it = [name for name in files if not name.startswith("training_args.")]
            name = "last-checkpoint" if self.args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            _link(checkpoint, copy / "checkpoint", all_of_it)
            beside = {f"{name}/{file}": copy / "checkpoint" / file for file in all_of_it}
        job: Any = HfApi().run_as_future(self._send_checkpoint, copy, self._progress_message(), beside)
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])  # type: ignore[arg-type]  # its annotation is wrong

    def _send_checkpoint(self, copy: Path, message: str, beside: dict[str, Path]) -> CommitInfo | None:
        try:
            return push(
                copy / "model", self.hub_model_id, token=self.args.hub_token, revision=self.args.hub_revision,
                commit_message=message, beside=beside,
            )  # fmt: skip
        except Exception as error:
            logger.warning(f"A checkpoint was not pushed, and the training goes on: {error}")
            raise
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _progress_message(self) -> str:
        if self.args.save_strategy == SaveStrategy.STEPS:
            return f"Training in progress, step {self.state.global_step}"
        return f"Training in progress, epoch {int(self.state.epoch or 0)}"


def _link(source: Path, target: Path, names: list[str]) -> None:
    """Files under another folder, without a copy where the file system can."""
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            place.hardlink_to(source / name)
        except OSError:
            shutil.copyfile(source / name, place)
