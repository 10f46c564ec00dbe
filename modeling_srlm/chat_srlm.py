"""Chat with a conversation of any length: recent turns stand in the window, older ones are retrieved."""

import itertools
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from .retrieval_srlm import arrange, top_k
from .turns_srlm import turn_scores

Message = dict[str, Any]


class ChatReply(NamedTuple):
    """What [`~SelfRetrievalLM.chat`] answers.

    `retrieved_turns`: numbers of the turns that were looked back at, most relevant first; a turn is a user's message
    and what follows it, the first is 0. `input_ids` (1, L): the prompt.
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
    """The parts of a conversation; ValueError unless it ends with a user's message."""
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise ValueError(f"message {number} is {message!r}; it must have a 'role' and a text as 'content'.")
    if not messages or messages[-1]["role"] != "user":
        last = messages[-1]["role"] if messages else "missing"
        raise ValueError(f"the last message's role is {last!r}; chat answers a message of the role 'user'.")
    starts = [number for number, message in enumerate(messages) if message["role"] == "user"]
    turns = [messages[start:end] for start, end in itertools.pairwise(starts)]
    return Conversation(messages[: starts[0]], turns, messages[-1])


class ChatMixin:
    """`chat`; mixed into [`SelfRetrievalLM`]."""

    config: Any
    language_model: Any
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    generation_config: Any
    _check_components: Any
    _replaces: bool

    @torch.no_grad()
    def chat(self, messages: list[Message], **kwargs: Any) -> ChatReply:
        """Answers the last message, through the tokenizer's chat template.

        The last turns that fit the window of `context_window_size` tokens stand there; of the older turns the
        `key_num` most relevant to the last message are put before them, in `value_size` tokens for each on average.

        Args:
            messages: [{"role": "system" | "user" | "assistant" | ..., "content": text}, ...], the last a user's.
            kwargs: of the backbone's `generate`, such as `max_new_tokens`, `do_sample` or a `streamer`.

        Raises ValueError where the tokenizer has no chat template, the last message alone fills the window, or
        `retrieval_method` is "oracle", which needs the answer.
        """
        conversation = split_turns(messages)
        self._check_chat()
        first = self._first_recent(conversation)
        retrieved, prompt = self._with_retrieved(conversation, first)
        input_ids = torch.tensor([prompt], device=self.device)
        kwargs.setdefault("generation_config", self.generation_config)
        sequences = self.language_model.generate(input_ids, attention_mask=torch.ones_like(input_ids), **kwargs)
        (content,) = self.tokenizer.batch_decode(sequences[:1, len(prompt) :], skip_special_tokens=True)
        return ChatReply(content, retrieved, input_ids)

    def _check_chat(self) -> None:
        if self.config.retrieval_method == "oracle":
            raise ValueError("retrieval_method 'oracle' needs the answer; set another one, such as 'bm25', for chat.")
        self._check_components()
        if self.tokenizer.chat_template is None:
            raise ValueError("the tokenizer has no chat template; set model.tokenizer.chat_template, or use generate.")

    def _prompt(self, messages: list[Message]) -> list[int]:
        template: Any = self.tokenizer.apply_chat_template
        return template(messages, add_generation_prompt=True, return_dict=False)

    def _first_recent(self, conversation: Conversation) -> int:
        """The number of the first turn that fits the window with all after it."""
        room = self.config.context_window_size - (self._retrieved_room if self._replaces else 0)
        length = len(self._prompt(conversation.messages([])))
        if length > room:
            raise ValueError(
                f"the last message (with what stands before the first turn) has {length} tokens; the window has room "
                f"for {room}. Shorten it, or enlarge context_window_size."
            )
        count = len(conversation.turns)
        first = count
        while first > 0 and len(self._prompt(conversation.messages(list(range(first - 1, count))))) <= room:
            first -= 1
        return first

    @property
    def _retrieved_room(self) -> int:
        return self.config.key_num * self.config.value_size

    def _with_retrieved(self, conversation: Conversation, first: int) -> tuple[list[int], list[int]]:
        """The turns before `first` that are retrieved, and the prompt; turns that do not fit are left out."""
        recent = list(range(first, len(conversation.turns)))
        room = self.config.context_window_size + (0 if self._replaces else self._retrieved_room)
        retrieved: list[int] = []
        prompt = self._prompt(conversation.messages(recent))
        for turn in self._relevant_turns(conversation, first):
            chosen = list(arrange([*retrieved, turn], self.config.order_method))
            longer = self._prompt(conversation.messages([*chosen, *recent]))
            if len(longer) <= room:
                retrieved, prompt = [*retrieved, turn], longer
        return retrieved, prompt

    def _relevant_turns(self, conversation: Conversation, first: int) -> list[int]:
        if self.config.retrieval_method == "no" or not first:
            return []
        texts = ["\n".join(message["content"] for message in turn) for turn in conversation.turns[:first]]
        query = conversation.query["content"]
        indices, _ = top_k(turn_scores(self, query, texts, self.config.seed + len(query))[None], self.config.key_num)
        return [turn for turn in indices[0].tolist() if turn >= 0]
