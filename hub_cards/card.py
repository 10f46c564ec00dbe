"""Model cards: rendered from a model's config and the facts of its run, written without losing a person's text."""

from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

from .facts import FAMILIES, CardFacts, Family
from .merge import merge_cards


def _code(value: Any) -> str:
    """`value` as inline code that may hold backticks itself, on one line and safe in a table."""
    text = str(value).replace("\n", "\\n").replace("|", "\\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"


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
    family, known = _family(model), CardFacts.from_keywords(facts)
    data = _metadata(family, model, known)
    text = _TEMPLATES.get_template(family.template).render(
        config=model.config, facts=known, data=data, num_parameters=model.num_parameters()
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def write_card(model: PreTrainedModel, folder: str | Path, **facts: Any) -> Path:
    """Write `README.md` of a saved model.

    Where there is one, its generated sections alone are renewed, and the metadata is merged: lists grow, a value that
    is there stays unless `facts` give another. Without facts of a training or an evaluation, those sections stay.

    Args:
        model, **facts: as in [`render_card`].
        folder: where the model was saved; made if missing.

    Returns: the path of the card.

    Raises:
        ValueError, TypeError: as [`render_card`], and for an existing card whose metadata cannot be read.
    """
    path = Path(folder) / "README.md"
    card = render_card(model, **facts)
    if path.is_file():
        card = merge_cards(read_card(path), card, given=set(facts))
    path.parent.mkdir(parents=True, exist_ok=True)
    card.save(path)
    return path


def _family(model: PreTrainedModel) -> Family:
    model_type = model.config.model_type
    if model_type not in FAMILIES:
        raise ValueError(
            f"the model is of type {model_type!r} but a card can be written for {sorted(FAMILIES)} only: pass a "
            "BiEncoderModel, LlaraForPreTraining or SelfRetrievalLM."
        )
    return FAMILIES[model_type]


def _metadata(family: Family, model: PreTrainedModel, facts: CardFacts) -> ModelCardData:
    results = facts.eval_results(family.pipeline_tag)
    name = (facts.repo_id or model.config.model_type).split("/")[-1]
    return ModelCardData(
        license=facts.license,
        language=facts.language,
        library_name="transformers",
        pipeline_tag=family.pipeline_tag,
        base_model=facts.base_model or _backbone_repo(model.config.text_config.name_or_path),
        datasets=facts.datasets,
        tags=["lookback", *family.tags],
        eval_results=results or None,
        model_name=name if results else None,
    )


def _backbone_repo(name_or_path: str) -> str | None:
    """The backbone's repo id; None where it came from a folder, or was made in memory."""
    if name_or_path.count("/") != 1 or Path(name_or_path).exists():
        return None
    try:
        validate_repo_id(name_or_path)
    except HFValidationError:  # an absolute or relative path of a folder that has gone
        return None
    return name_or_path


def read_card(path: Path) -> ModelCard:
    """The card in a file; ValueError when its metadata cannot be read."""
    try:
        return ModelCard.load(path)
    except Exception as error:  # yaml's errors and the client's own have no common class below Exception
        raise ValueError(f"the metadata of {path} cannot be read: mend the block at its top. {error}") from error
