"""`lookback pull`: fetches a model's repo from the Hub, without pickles."""

from dataclasses import dataclass, field

from huggingface_hub.errors import HfHubHTTPError

from hub_cards import TransferError, pull

from .parsing import parse_arguments


@dataclass
class PullArguments:
    """What to fetch, and where to."""

    repo_id: str = field(metadata={"help": "user/name."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit. Default: the main branch."})
    local_dir: str | None = field(default=None, metadata={"help": "Folder to put it in. Default: the Hub's cache."})


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv`, and prints the folder, for `from_pretrained`."""
    (arguments,) = parse_arguments(argv, [PullArguments], "pull", __doc__ or "")
    try:
        print(pull(arguments.repo_id, arguments.revision, local_dir=arguments.local_dir))
    except (HfHubHTTPError, TransferError) as error:
        raise ValueError(str(error)) from error  # for the command's one message
