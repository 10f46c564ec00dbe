"""The card as a push sends it: with what a person wrote on the Hub, the licence of the base, and the repo's id."""

import shutil
from functools import partial
from pathlib import Path

from huggingface_hub import ModelCard, ModelInfo, hf_hub_download

from ..transfer.retries import retried
from .card import complete_license, read_card
from .facts import PLACEHOLDER
from .merge import is_generated, merge_cards, replace_generated


def card_to_send(folder: Path, repo_id: str, head: ModelInfo, token: str | bool | None, place: Path) -> Path | None:
    """Write the card into `place`; the folder stays as it is: it may lie in the Hub's cache, or go to other repos too.

    Args:
        head: the repo as `model_info` gives it.
        place: a folder for the card.

    Returns: its path; None where neither the folder nor the Hub has a card.
    """
    own, sent = folder / "README.md", place / "README.md"
    sent.unlink(missing_ok=True)  # of a try before
    if own.is_file():
        shutil.copyfile(own, sent)
    _keep_hub_card(sent, repo_id, head, token)
    if not sent.is_file():
        return None
    complete_license(sent, token)
    _name_repo(sent, repo_id)
    return sent


def _name_repo(path: Path, repo_id: str) -> None:
    """Put the repo's id into the card's code, for none at all or one without its owner."""
    text = named = path.read_bytes().decode()
    for name in (PLACEHOLDER, repo_id.split("/")[-1]):
        named = replace_generated(named, f'("{name}"', f'("{repo_id}"')
    if named != text:
        path.write_bytes(named.encode())


def _keep_hub_card(path: Path, repo_id: str, head: ModelInfo, token: str | bool | None) -> None:
    """Put what a person wrote on the Hub into the card, where nobody has written in that one."""
    if path.is_file() and not is_generated(read_card(path)):
        return
    if path.name not in {sibling.rfilename for sibling in head.siblings or []}:
        return
    fetch = partial(hf_hub_download, repo_id, path.name, revision=head.sha, token=token)
    on_hub: ModelCard = read_card(Path(retried(fetch, f"reading the card of {repo_id!r}")))
    if path.is_file():
        on_hub = merge_cards(on_hub, read_card(path), given=set())
    on_hub.save(path)
