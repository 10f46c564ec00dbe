"""Model cards: rendered from a model's config and the facts of its run, written without losing a person's text."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jinja2
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from ..whole_files import written_whole
from .facts import FAMILIES, PLACEHOLDER, CardFacts, Family
from .merge import merge_cards, merge_results, own_metadata, stamp, stamp_metadata
from .origin import LICENSE_KEYS, Origin, find_origin, license_beside, license_on_hub
from .pictures import LOSS_PICTURE, draw_losses


def _code(value: Any) -> str:
    """`value` as inline code that may hold backticks itself, on one line and safe in a table."""
    text = str(value).replace("\n", "\\n").replace("\r", "\\r").replace("|", "\\|")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 2)
    return f"{fence} {text} {fence}" if longest else f"`{text}`"


def _cell(value: Any) -> str:
    """`value` as the text of a table's cell: numbers to five digits, no line breaks, no bars."""
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,  # a setting that a config has lost must fail, not render as nothing
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # Markdown, not HTML
)
_TEMPLATES.filters.update(code=_code, cell=_cell)


def render_card(model: PreTrainedModel, **facts: Any) -> ModelCard:
    """The card of a model of one of the three families, as if there were none yet.

    Args:
        model: a BiEncoderModel, LlaraForPreTraining or SelfRetrievalLM, told by its `config.model_type`.
        **facts: the attributes of [`CardFacts`].

    Returns: the card; `str(card)` is its text with the metadata block, `card.data` the metadata.

    Raises:
        ValueError: for a model of another type, and for a fact that cards do not have.
        TypeError: for a metric that is not a number.
    """
    return _render(model, CardFacts.from_keywords(facts), picture=None)


def _render(model: PreTrainedModel, facts: CardFacts, picture: str | None) -> ModelCard:
    family, origin = _family(model), find_origin(model, facts)
    data = _metadata(family, model, facts, origin)
    text = _TEMPLATES.get_template(family.template).render(
        config=model.config, facts=facts, origin=origin, picture=picture, num_parameters=model.num_parameters(),
        repo=facts.repo_id or PLACEHOLDER,
    )  # fmt: skip
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{stamp(text)}")
    return stamp_metadata(card, own=set(LICENSE_KEYS) if facts.license else set())  # no one but a person gives one


def write_card(model: PreTrainedModel, folder: str | Path, **facts: Any) -> Path:
    """Write `README.md` of a saved model, and beside it a picture of its `losses`, where matplotlib is installed.

    Where there is one, its generated sections alone are renewed, but not one that somebody edited; and the metadata is
    merged: lists grow, a value that is there stays unless `facts` give another. Without facts of a training or an
    evaluation, those sections stay.

    Args:
        model, **facts: as in [`render_card`].
        folder: where the model was saved; made if missing.

    Returns: the path of the card.

    Raises:
        ValueError, TypeError: as [`render_card`], and for an existing card whose metadata cannot be read.
    """
    path, known = Path(folder) / "README.md", CardFacts.from_keywords(facts)
    _family(model)  # an unknown one is an error before anything is written
    picture = LOSS_PICTURE if draw_losses(known.losses, folder) else None
    card = _render(model, known, picture)
    if path.is_file():
        card = merge_cards(read_card(path), card, given=set(facts))
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(card, path)
    return path


def _save(card: ModelCard, path: Path) -> None:
    with written_whole(path) as new:  # half of a card would be taken for a person's text
        card.save(new)


def _family(model: PreTrainedModel) -> Family:
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"the model is of type {model_type!r} but a card can be written for {sorted(FAMILIES)} only: pass a "
            "BiEncoderModel, LlaraForPreTraining or SelfRetrievalLM."
        )
    return FAMILIES[model_type]


def _metadata(family: Family, model: PreTrainedModel, facts: CardFacts, origin: Origin) -> ModelCardData:
    results = facts.eval_results(family.pipeline_tag)
    name = (facts.repo_id or model.config.model_type).split("/")[-1]
    licensed: dict[str, Any] = {"license": facts.license} if facts.license else license_beside(model)
    relation: dict[str, Any] = {"base_model_relation": origin.relation} if origin.relation else {}
    return ModelCardData(
        **licensed,
        **relation,
        language=facts.language,
        library_name="transformers",
        pipeline_tag=family.pipeline_tag,
        base_model=origin.base_model,
        datasets=facts.datasets,
        tags=["lookback", *family.tags, *(["peft"] if origin.adapter else [])],
        eval_results=results or None,
        model_name=name if results else None,
    )


def add_results(path: Path, results: Sequence[EvalResult]) -> None:
    """Put results of one source into a card: into its `model-index`, and with that source's former ones in a table.

    A result takes the place of a former one of the same data set, split and metric. Nothing else changes.

    Args:
        path: of a card that is there.
        results: each with a `source_name`, which is the heading of the table.

    Raises ValueError for a card whose metadata cannot be read.
    """
    card = read_card(path)
    source = str(results[0].source_name)
    every = merge_results(cast(ModelCardData, card.data).eval_results or [], list(results))
    shown = [result for result in every if result.source_name == source]
    text = _TEMPLATES.get_template("results.md.jinja").render(source=source, results=shown)
    data = ModelCardData(eval_results=list(results), model_name=path.absolute().parent.name)
    new = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{stamp(text)}")
    _save(merge_cards(card, new, given=set()), path)


def complete_license(path: Path, token: str | bool | None = None) -> None:
    """Write the licence of the base models' cards into a card on its way to the Hub that names none."""
    card = read_card(path)
    data = cast(ModelCardData, card.data)
    if data.license is None and (found := license_on_hub(data.base_model, token)):
        own = own_metadata(card)
        for name, value in found.items():
            data[name] = value
        _save(stamp_metadata(card, own), path)


def read_card(path: Path) -> ModelCard:
    """The card in a file; ValueError when its metadata cannot be read."""
    try:
        return ModelCard.load(path)
    except Exception as error:  # yaml's errors and the client's own have no common class below Exception
        raise ValueError(f"the metadata of {path} cannot be read: mend the block at its top. {error}") from error
