"""`lookback push`: sends a saved model's folder to the Hub, its card and code with it."""

from dataclasses import dataclass, field

from hub_cards import push

from ..jobs.places import check_repo_id
from .parsing import parse_arguments


@dataclass
class PushArguments:
    """What to send, and where to."""

    folder: str = field(metadata={"help": "Folder made by save_pretrained, or a training's output folder."})
    repo_id: str = field(metadata={"help": "user/name; the repo is created if missing."})
    private: bool = field(default=False, metadata={"help": "Make a repo that is created private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to commit to. Default: the main branch."})

    def __post_init__(self) -> None:
        check_repo_id("--repo_id", self.repo_id)


ARGUMENTS = (PushArguments,)
EXAMPLES = r"""
# a saved model
lookback push --folder runs/finetune --repo_id user/name
# a repo that is private
lookback push --folder runs/finetune --repo_id user/name --private
# to a branch
lookback push --folder runs/finetune --repo_id user/name --revision trial
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv`, and prints where the commit is."""
    (arguments,) = parse_arguments(argv, ARGUMENTS, "push", __doc__)
    # Without --private the account's own setting decides.
    private, revision = arguments.private or None, arguments.revision
    commit = push(arguments.folder, arguments.repo_id, private=private, revision=revision)
    assert commit is not None  # as it is of a folder
    print(commit.commit_url)
