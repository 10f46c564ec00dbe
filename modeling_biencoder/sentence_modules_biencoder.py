"""What the modules of a sentence-transformers model say, in a bi-encoder's words; what it cannot say is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.utils import logging

from .pooling_biencoder import ACTIVATIONS, POOLINGS

LAST = "Normalize"  # the one module without settings
_POOLINGS = {"lasttoken": "last_token", "cls": "cls", "mean": "mean"}  # theirs -> ours
_FLAG = "pooling_mode_"  # before version 5.4 one flag for each pooling: pooling_mode_cls_token, ...
_PASSAGES = ("document", "passage", "corpus")  # in the order that encode_document has them
_SIMILARITIES = ("cosine", "dot")
_HARMLESS = {"add_pooling_layer", "attn_implementation", "torch_dtype", "dtype", "padding_side", "model_max_length"}
# What a command has no option for.
_IN_FILE = "or, for a command too, {} the config_sentence_transformers.json of a folder with the model"
logger = logging.get_logger(__name__)


@dataclass
class SentenceTransformerParts:
    """What a sentence-transformers model is made of.

    Attributes:
        fields: of a bi-encoder's configuration, but for `max_length`.
        max_length: None where the tokenizer and the backbone say it.
        folder: where backbone and tokenizer lie in the repo.
        dense_folders: where the weights of the dense layers lie, in their order.
        lower_case: texts are in lower case before they are tokenised.
        tokens: those of the tokenizer's own that the prompts are made of.
        refusals: {field: why it cannot be taken over}, for those that the caller does not decide; of "prompts" it
            holds for any prompt.
    """

    fields: dict[str, Any]
    folder: str = ""
    dense_folders: list[str] = field(default_factory=list)
    lower_case: bool = False
    max_length: int | None = None
    tokens: tuple[str, ...] = ()
    refusals: dict[str, str] = field(default_factory=dict)

    def check(self, given: Mapping[str, Any]) -> None:
        """ValueError for what cannot be taken over, beside the fields that the caller decides."""
        prompts = given.get("prompts", self.fields["prompts"])
        for name, why in self.refusals.items():
            if _has_text(prompts) if name == "prompts" else name not in given:
                raise ValueError(why)


def say_width(what: str, width: int | None) -> None:
    """Say once that a model of sentence-transformers cuts its vectors, which no field of a bi-encoder does."""
    if width is not None:
        logger.warning_once(
            f"{what} cuts its vectors to truncate_dim={width}, for which a bi-encoder has no field: it gives them "
            f"whole. encode(texts, truncate_dim={width}) cuts them, too."
        )


def describe(
    what: str,
    kinds: list[str],
    configs: list[Mapping[str, Any]],
    transformer: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> SentenceTransformerParts:
    """The parts of a model from its modules' settings.

    Args:
        what: how messages name the model.
        kinds: names of the modules, in their order.
        configs: settings of the modules between the first and `Normalize`: of the pooling and of the dense layers.
        transformer: settings of the first module.
        settings: of the model itself, with its prompts.
    """
    _check_order(what, kinds)
    _check_transformer(what, transformer)
    say_width(what, settings.get("truncate_dim"))
    pooling, similarity = _modes(configs[0]), settings.get("similarity_fn_name") or "cosine"
    refusals = _refusals(what, pooling, similarity, configs[0].get("include_prompt") is not False)
    fields = {
        "pooling": _POOLINGS.get(pooling[0]),
        "normalize": kinds[-1] == LAST,
        "similarity": similarity,
        "prompts": prompts_by_task(settings.get("prompts") or {}, settings.get("default_prompt_name")),
    }
    if dense := [_dense(what, config) for config in configs[1:]]:
        fields["dense"] = dense
    return SentenceTransformerParts(
        fields,
        lower_case=bool(transformer.get("do_lower_case")),
        max_length=transformer.get("max_seq_length"),
        refusals=refusals,
    )


def prompts_by_task(prompts: Mapping[str, str], default: str | None = None) -> dict[str, dict[str, str]]:
    """Our prompts of theirs: without a task a role has its own prompt, or else the default one, others are tasks.

    (Their `encode_document` overlooks a prompt named passage, and both it and `encode_query` the default one, as
    "query" and "document" are always there, if need be as an empty string: an empty one counts as none here.)

    >>> prompts_by_task({"query": "q: ", "document": "", "STS": "similar: "})
    {'default': {'query': 'q: ', 'passage': ''}, 'STS': {'query': 'similar: ', 'passage': 'similar: '}}
    >>> prompts_by_task({"code-query": "def ", "plain": "text: "}, default="plain")["default"]
    {'query': 'text: ', 'passage': 'text: '}
    >>> prompts_by_task({"Search": "q: ", "Search-document": "d: "})["Search"]
    {'query': 'q: ', 'passage': 'd: '}
    """
    fallback = "" if default is None or default in ("query", *_PASSAGES) else prompts.get(default) or ""
    passage = next((prompts[name] for name in _PASSAGES if prompts.get(name)), fallback)
    tasks: dict[str, dict[str, str]] = {"default": {"query": prompts.get("query") or fallback, "passage": passage}}
    alone = {name: text for name, text in prompts.items() if _role(name) is None}
    for name, text in alone.items():
        if name not in ("query", *_PASSAGES, "default"):
            tasks[name] = {"query": text, "passage": text}
    for name in prompts.keys() - alone.keys():  # as our export writes them, and mteb reads them
        tasks.setdefault(name.rpartition("-")[0], {})[str(_role(name))] = prompts[name]
    return tasks if any(text for prompt in tasks.values() for text in prompt.values()) else {}


def _role(name: str) -> str | None:
    """Of the prompt "<task>-query", "-passage" or "-document"; None for a prompt of both roles, or of no task."""
    task, _, role = name.rpartition("-")
    return {"query": "query", "passage": "passage", "document": "passage"}.get(role) if task else None


def _check_order(what: str, kinds: list[str]) -> None:
    dense = kinds[2:-1] if kinds[2:] and kinds[-1] == LAST else kinds[2:]
    if kinds[:2] == ["Transformer", "Pooling"] and all(kind == "Dense" for kind in dense):
        return
    raise ValueError(
        f"{what} is made of {', '.join(kinds) or 'nothing'}; a bi-encoder is made of Transformer, Pooling, any number "
        "of Dense, and Normalize, in this order: wrap SentenceTransformer(...) in an object with encode()."
    )


def _check_transformer(what: str, transformer: Mapping[str, Any]) -> None:
    """ValueError for settings of the first module that would change the states."""
    task = transformer.get("transformer_task", "feature-extraction")
    text = (transformer.get("modality_config") or {}).get("text") or {}
    output = text.get("method_output_name", "last_hidden_state")
    found = {"transformer_task": (task, "feature-extraction"), "method_output_name": (output, "last_hidden_state")}
    for name, (value, rule) in found.items():
        if value != rule:
            raise ValueError(f"{what} has {name}={value!r}; a bi-encoder reads texts with {rule!r} alone.")
    for name in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"):
        strange = set(transformer.get(name) or {}) - _HARMLESS
        if strange:
            raise ValueError(
                f"{what} is loaded with {name}={transformer[name]!r}, and {sorted(strange)} may change its states: "
                "load the backbone with them, and give that to from_backbone."
            )


def _modes(config: Mapping[str, Any]) -> list[str]:
    flags = {
        name.removeprefix(_FLAG).removesuffix("_tokens").removesuffix("_token"): value
        for name, value in config.items()
        if name.startswith(_FLAG)
    }
    modes = config.get("pooling_mode") or [name for name, value in flags.items() if value] or ["mean"]
    return [modes] if isinstance(modes, str) else list(map(str, modes))


def _refusals(what: str, pooling: list[str], similarity: str, include_prompt: bool) -> dict[str, str]:
    refusals: dict[str, str] = {}
    if len(pooling) != 1 or pooling[0] not in _POOLINGS:
        refusals["pooling"] = (
            f"{what} pools by {' and '.join(pooling)}; a bi-encoder by one of {', '.join(_POOLINGS)} (and others of "
            f"its own: {', '.join(POOLINGS)}): give pooling=..., as a command --pooling, to take another, for which "
            "it should be trained anew, or wrap SentenceTransformer(...) in an object with encode()."
        )
    if not include_prompt:
        refusals["prompts"] = (
            f"{what} leaves its prompts out of the pooling (include_prompt=False), which a bi-encoder does not: to "
            f"read texts without prompts give prompts={{}}, {_IN_FILE.format('leave its prompts out of')}; or wrap "
            "SentenceTransformer(...) in an object with encode()."
        )
    if similarity not in _SIMILARITIES:
        refusals["similarity"] = (
            f"{what} compares by {similarity!r}; a bi-encoder by one of {', '.join(_SIMILARITIES)}: give "
            f"similarity=..., {_IN_FILE.format('set similarity_fn_name in')}."
        )
    return refusals


def _has_text(prompts: Any) -> bool:
    return isinstance(prompts, Mapping) and any(
        any(prompt.values()) for prompt in prompts.values() if isinstance(prompt, Mapping)
    )


def _dense(what: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A field of the configuration's `dense`."""
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    inputs = {config.get(name) or "sentence_embedding" for name in ("module_input_name", "module_output_name")}
    if activation not in ACTIVATIONS or config.get("use_residual") or inputs != {"sentence_embedding"}:
        raise ValueError(
            f"{what} has a Dense layer {dict(config)}; a bi-encoder has layers of the embedding alone, without a "
            f"residual, with one of the activations {', '.join(ACTIVATIONS)}."
        )
    sizes = {name: config.get(name) for name in ("in_features", "out_features")}
    return {**sizes, "bias": bool(config.get("bias", True)), "activation": activation}
