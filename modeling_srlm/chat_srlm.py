"""Chat with a conversation of any length: recent turns stand in the window, older ones are retrieved.

With `reuse_states` the conversation is one text that goes on: what was read of it is not read again, and chunks of it
are retrieved, in whatever turns they stand.
"""

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import GenerationConfig

from .checks_srlm import generation_numbers, shown, typed
from .configuration_srlm import SelfRetrievalConfig
from .generation_srlm import DEFAULT_NEW_TOKENS, option, with_tokenizer
from .planning_srlm import check_components, replaces
from .positions_srlm import position_limit
from .retrieval_srlm import arrange, top_k
from .tokenizers_srlm import behind_bos, text_ids
from .turns_srlm import turn_scores

if TYPE_CHECKING:
    from .modeling_srlm import SelfRetrievalLM

Message = dict[str, Any]
# Arguments of generate that are the prompt, or say what is returned.
_OWN = (
    "inputs", "input_ids", "inputs_embeds", "attention_mask", "custom_generate", "labels", "past_key_values",
    "position_ids", "return_dict_in_generate",
)  # fmt: skip


class ChatReply(NamedTuple):
    """What [`~SelfRetrievalLM.chat`] answers.

    `retrieved_turns`: numbers of the turns that were looked back at, most relevant first; a turn is a user's message
    and what follows it, the first is 0. With `reuse_states`: those in which the chunks stand that the prompt's end
    retrieved. `input_ids` (1, L): the prompt.
    """

    content: str
    retrieved_turns: list[int]
    input_ids: torch.Tensor


class Conversation(NamedTuple):
    """Messages before the first user's; turns of a user's message and the answers to it; the last user's message."""

    head: list[Message]
    turns: list[list[Message]]
    query: Message

    def messages(self, chosen: list[int]) -> list[Message]:
        """The conversation with the turns `chosen` alone."""
        return [*self.head, *(message for turn in chosen for message in self.turns[turn]), self.query]


def split_turns(messages: list[Message]) -> Conversation:
    """The parts of a conversation; TypeError or ValueError unless these are messages that end with a user's."""
    if not isinstance(messages, list | tuple):
        raise TypeError(
            f"messages is a {type(messages).__name__} and must be a list of messages: [{{'role': 'user', 'content': "
            "text}}]."
        )
    for number, message in enumerate(messages):
        parts = [message.get(name) for name in ("role", "content")] if isinstance(message, dict) else [None]
        if not all(isinstance(part, str) for part in parts) or not parts[0]:
            raise ValueError(f"message {number} is {message!r}; it must have a 'role' and a text as 'content'.")
    if not messages or messages[-1]["role"] != "user":
        last = messages[-1]["role"] if messages else "missing"
        raise ValueError(f"the last message's role is {last!r}; chat answers a message of the role 'user'.")
    if not messages[-1]["content"].strip():
        raise ValueError("the last message's content is blank: there is nothing to answer. Give it a text.")
    starts = [number for number, message in enumerate(messages) if message["role"] == "user"]
    turns = [messages[start:end] for start, end in itertools.pairwise(starts)]
    return Conversation(messages[: starts[0]], turns, messages[-1])


@torch.no_grad()
def answer_chat(model: "SelfRetrievalLM", messages: list[Message], **kwargs: Any) -> ChatReply:
    """What `SelfRetrievalLM.chat` returns."""
    conversation = split_turns(messages)
    kwargs = _check_generation(model, kwargs)
    _check_chat(model)
    kwargs = with_tokenizer(model, kwargs.get("generation_config"), kwargs)
    if model.config.reuse_states:
        return _answer_reusing(model, conversation, kwargs)
    retrieved, prompt = _with_retrieved(model, conversation, first_recent(model, conversation))
    prompt = behind_bos(model.config, prompt)
    _check_answer_fits(model, len(prompt), kwargs)
    input_ids = torch.tensor([prompt], device=model.device)
    kwargs = {"generation_config": model.generation_config, **kwargs}
    if kwargs["generation_config"] is not None and kwargs["generation_config"].return_dict_in_generate:
        kwargs["return_dict_in_generate"] = False
    sequences = model.language_model.generate(input_ids, attention_mask=torch.ones_like(input_ids), **kwargs)
    (content,) = model.tokenizer.batch_decode(sequences[:1, len(prompt) :], skip_special_tokens=True)
    return ChatReply(content, retrieved, input_ids)


def _answer_reusing(model: "SelfRetrievalLM", conversation: Conversation, kwargs: dict[str, Any]) -> ChatReply:
    messages = conversation.messages(list(range(len(conversation.turns))))
    prompt = _prompt(model, messages)
    input_ids = torch.tensor([prompt], device=model.device)
    given = torch.ones_like(input_ids)  # all of it is text, whatever a padding token there means
    output = model.generate(input_ids, attention_mask=given, **{**kwargs, "return_dict_in_generate": True})
    (content,) = model.tokenizer.batch_decode(output.sequences[:1, len(prompt) :], skip_special_tokens=True)
    retrievals = output.past_key_values.retrievals
    chunks = [chunk for chunk in retrievals[0][1][0].tolist() if chunk >= 0] if retrievals else []
    config = model.config
    shift = int(config.add_bos and prompt[0] == config.bos_id)  # it is no part of the first chunk
    firsts = [chunk * config.chunk_size + shift for chunk in chunks]
    return ChatReply(content, _turns_of(_turn_starts(model, messages), firsts, config.value_size), input_ids)


def _turns_of(starts: list[int], firsts: list[int], size: int) -> list[int]:
    """The turns before the last message that lie in the `size` tokens from any of `firsts` on, in that order."""
    found: dict[int, None] = {}
    for first in firsts:
        turns = range(bisect_right(starts, first) - 1, bisect_right(starts, first + size - 1))
        found |= dict.fromkeys(turn for turn in turns if 0 <= turn < len(starts) - 1)
    return list(found)


def _turn_starts(model: "SelfRetrievalLM", messages: list[Message]) -> list[int]:
    """The tokens of the whole prompt with which the users' messages begin."""
    tokenizer: Any = model.tokenizer
    text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    places, cursor = [], 0
    for message in messages:
        place = text.find(message["content"].strip(), cursor)
        if message["role"] == "user":
            places.append(max(place, cursor))
        if place >= 0:  # a template may leave a message out, or write it anew
            cursor = place + len(message["content"].strip())
    if not tokenizer.is_fast:
        return [len(ids) for ids in text_ids(tokenizer, [text[:place] for place in places])]
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in read["offset_mapping"]]
    return [bisect_right(ends, place) for place in places]


def _check_generation(model: "SelfRetrievalLM", kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of `generate`; TypeError or ValueError for those that chat gives itself, or would not heed."""
    for name in _OWN:
        if kwargs.get(name) is not None and kwargs[name] is not False:
            raise TypeError(f"chat makes the prompt of the messages and returns a ChatReply: leave {name} out.")
    given = typed("generation_config", kwargs.get("generation_config"), GenerationConfig | None)
    count = option(model, "num_return_sequences", given, kwargs)
    if count not in (None, 1):
        raise ValueError(
            f"num_return_sequences={shown(count)} must be 1, as chat gives one answer: leave it out, or use generate."
        )
    return generation_numbers(kwargs)


def _check_chat(model: "SelfRetrievalLM") -> None:
    if model.config.retrieval_method == "oracle":
        raise ValueError("retrieval_method 'oracle' needs the answer; set another one, such as 'bm25', for chat.")
    check_components(model)
    if model.tokenizer.chat_template is None:
        raise ValueError("the tokenizer has no chat template; set model.tokenizer.chat_template, or use generate.")


def _check_answer_fits(model: "SelfRetrievalLM", length: int, kwargs: dict[str, Any]) -> None:
    """ValueError where the answer would go on past the backbone's positions, behind a prompt of `length` tokens."""
    given = kwargs.get("generation_config")
    limit, why = position_limit(model.config.text_config)
    new, whole = (option(model, name, given, kwargs) for name in ("max_new_tokens", "max_length"))
    if new or not whole:
        whole = length + (new or DEFAULT_NEW_TOKENS)
    if limit is not None and whole - 1 > limit:  # the last token is not read
        raise ValueError(
            f"the prompt has {length} tokens, and {whole - length} new ones behind it need {whole - 1} positions; the "
            f"backbone has {limit}{why}. Lower max_new_tokens, context_window_size or key_num."
        )


def first_recent(model: "SelfRetrievalLM", conversation: Conversation) -> int:
    """The number of the first turn that fits the window with all after it.

    Raises ValueError where not even the last message fits.
    """
    room = model.config.context_window_size - (_retrieved_room(model.config) if replaces(model.config) else 0)
    length = len(_prompt(model, conversation.messages([])))
    if length > room:
        raise ValueError(
            f"the last message (with what stands before the first turn) has {length} tokens; the window has room "
            f"for {room}. Shorten it, or enlarge context_window_size."
        )
    count = len(conversation.turns)
    first = count
    while first > 0 and len(_prompt(model, conversation.messages(list(range(first - 1, count))))) <= room:
        first -= 1
    return first


def _with_retrieved(model: "SelfRetrievalLM", conversation: Conversation, first: int) -> tuple[list[int], list[int]]:
    """The turns before `first` that are retrieved, and the prompt; turns that do not fit are left out."""
    recent = list(range(first, len(conversation.turns)))
    room = model.config.context_window_size + (0 if replaces(model.config) else _retrieved_room(model.config))
    retrieved: list[int] = []
    prompt = _prompt(model, conversation.messages(recent))
    for turn in _relevant_turns(model, conversation, first):
        chosen = list(arrange([*retrieved, turn], model.config.order_method))
        longer = _prompt(model, conversation.messages([*chosen, *recent]))
        if len(longer) <= room:
            retrieved, prompt = [*retrieved, turn], longer
    return retrieved, prompt


def _relevant_turns(model: "SelfRetrievalLM", conversation: Conversation, first: int) -> list[int]:
    config = model.config
    if config.retrieval_method == "no" or not first:
        return []
    texts = ["\n".join(message["content"] for message in turn) for turn in conversation.turns[:first]]
    query = conversation.query["content"]
    indices, _ = top_k(turn_scores(model, query, texts, config.seed + len(query))[None], config.key_num)
    return [turn for turn in indices[0].tolist() if turn >= 0]


def _retrieved_room(config: SelfRetrievalConfig) -> int:
    return config.key_num * config.value_size


def _prompt(model: "SelfRetrievalLM", messages: list[Message]) -> list[int]:
    template: Any = model.tokenizer.apply_chat_template
    return template(messages, add_generation_prompt=True, return_dict=False)
