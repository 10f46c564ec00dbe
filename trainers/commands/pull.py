"""`lookback pull`: fetches a model's repo from the Hub, after a look at what it holds; or looks at it alone."""

import sys
from dataclasses import dataclass, field

from hub_cards import inspect, pull

from ..jobs.idle import refuse_idle
from ..jobs.places import check_folder, check_repo_id
from .parsing import parse_arguments


@dataclass
class PullArguments:
    """What to fetch, and where to; or what to look at."""

    repo_id: str | None = field(default=None, metadata={"help": "user/name."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit. Default: the main branch."})
    local_dir: str | None = field(default=None, metadata={"help": "Folder to put it in. Default: the Hub's cache."})
    inspect: str | None = field(
        default=None,
        metadata={
            "help": "user/name or a folder: list its files and whatever is unsafe in it, and fetch, run and store "
            "nothing. Exit status 1 where something is refused."
        },
    )
    allow_unsafe: bool = field(
        default=False, metadata={"help": "Fetch what would be refused, such as code that you have read."}
    )

    def __post_init__(self) -> None:
        if (self.repo_id is None) == (self.inspect is None):
            raise ValueError("give one of --repo_id (to fetch) and --inspect (to look alone).")
        if self.inspect is not None:
            refuse_idle(self, ("local_dir", "allow_unsafe"), "with --inspect, which fetches nothing")
        if self.repo_id is not None:
            check_repo_id("--repo_id", self.repo_id)
        if self.local_dir is not None:
            check_folder("--local_dir", self.local_dir)


ARGUMENTS = (PullArguments,)
EXAMPLES = r"""
# into the Hub's cache
lookback pull --repo_id user/name
# into a folder, at a tag
lookback pull --repo_id user/name --revision v1.0 --local_dir folder
# a look alone, fetching and running nothing
lookback pull --inspect user/name
"""


def main(argv: list[str]) -> None:
    """Runs the command with the arguments `argv`, and prints the folder, for `from_pretrained`, or what was seen."""
    (arguments,) = parse_arguments(argv, ARGUMENTS, "pull", __doc__)
    if arguments.inspect is None:
        repo_id, revision = str(arguments.repo_id), arguments.revision
        print(pull(repo_id, revision, local_dir=arguments.local_dir, allow_unsafe=arguments.allow_unsafe))
        return
    found = inspect(arguments.inspect, arguments.revision)
    print(found.text())
    if found.refusals:
        sys.exit(1)
