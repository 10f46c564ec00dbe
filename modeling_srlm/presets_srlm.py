# Copied from modeling_biencoder/presets_biencoder.py by "make copies": edit that one.
"""Published retrievers: how each is used by its card, in a bi-encoder's words."""

from dataclasses import dataclass, replace
from typing import Any

_WEB = "Given a web search query, retrieve relevant passages that answer the query"
_STS, _PARALLEL = "Retrieve semantically similar text.", "Retrieve parallel sentences."
_SUMMARY = "Given a news summary, retrieve other semantically similar summaries"


@dataclass(frozen=True)
class Preset:
    """How a published model is used.

    Attributes:
        repos: its Hub ids, in lower case.
        families: `model_type`s of its backbone.
        fields: of a bi-encoder's configuration, but for `max_length`.
        max_length: where its card cuts texts.
        tokens: those that its tokenizer has and others do not.
        has_files: a part of it, its dense layers, lies in sentence-transformers' files alone.
    """

    repos: tuple[str, ...]
    families: tuple[str, ...]
    fields: dict[str, Any]
    max_length: int
    tokens: tuple[str, ...] = ()
    has_files: bool = False


def _both(text: str) -> dict[str, str]:
    return {"query": text, "passage": text}


def _instruct(text: str, gap: str = " ") -> str:
    return f"Instruct: {text}\nQuery:{gap}"


_DECODER = {"pooling": "last_token", "normalize": True, "similarity": "cosine"}
_LLM_EMBEDDER = {
    "qa": ("Represent this query for retrieving relevant documents: ", "Represent this document for retrieval: "),
    "convsearch": (
        "Encode this query and context for searching relevant passages: ", "Encode this passage for retrieval: ",
    ),
    "chat": (
        "Embed this dialogue to find useful historical dialogues: ", "Embed this historical dialogue for retrieval: ",
    ),
    "lrlm": (
        "Embed this text chunk for finding useful historical chunks: ",
        "Embed this historical text chunk for retrieval: ",
    ),
    "icl": (
        "Convert this example into vector to look for useful examples: ",
        "Convert this example into vector for retrieval: ",
    ),
    "tool": (
        "Transform this user request for fetching helpful tool descriptions: ",
        "Transform this tool description for retrieval: ",
    ),
}  # fmt: skip
_LLM_EMBEDDER_PROMPTS = {
    task: dict(zip(("query", "passage"), texts, strict=True)) for task, texts in _LLM_EMBEDDER.items()
}
_GEMMA_TASKS = {
    "BitextMining": "search result", "Clustering": "clustering", "Classification": "classification",
    "InstructionRetrieval": "code retrieval", "MultilabelClassification": "classification",
    "PairClassification": "sentence similarity", "Reranking": "search result", "STS": "sentence similarity",
    "Summarization": "summarization",
}  # fmt: skip
_GEMMA_SEARCH = {"query": "task: search result | query: ", "passage": "title: none | text: "}

PRESETS = {
    "llm-embedder": Preset(
        ("baai/llm-embedder",), ("bert",),
        {
            "pooling": "cls", "normalize": True, "similarity": "cosine", "temperature": 0.01,
            "prompts": {"default": _LLM_EMBEDDER_PROMPTS["qa"], **_LLM_EMBEDDER_PROMPTS},
        },
        max_length=512,  # its card; arXiv:2310.07554
    ),
    "bge-en-icl": Preset(
        ("baai/bge-en-icl", "baai/bge-en-icl-e5data"), ("mistral",),
        {
            **_DECODER, "append_eos": True, "temperature": 0.02,
            "prompts": {"default": {"query": f"<instruct>{_WEB}.\n<query>", "query_suffix": "\n<response>"}},
        },
        max_length=4096, tokens=("<instruct>", "<query>", "<response>"),  # its card; arXiv:2409.15700
    ),
    "llara": Preset(
        ("baai/llara-passage", "baai/llara-document", "baai/llara-beir", "baai/llara-pretrain"), ("llama",),
        {
            "pooling": "mean_last_k", "pooling_k": 8, "normalize": True, "similarity": "cosine", "temperature": 0.01,
            "separate_prompts": True,
            "prompts": {
                "default": {
                    "query": '"',
                    "query_suffix": '", predict the following passage within eight words: '
                    + "".join(f"<s{i}>" for i in range(9, 17)),
                    "passage": '"',
                    "passage_suffix": '", summarize the above passage within eight words: '
                    + "".join(f"<s{i}>" for i in range(1, 9)),
                }
            },
        },
        max_length=512, tokens=tuple(f"<s{i}>" for i in range(1, 17)),  # its card; arXiv:2312.15503
    ),
    "repllama": Preset(
        ("castorini/repllama-v1-7b-lora-passage", "samaya-ai/repllama-reproduced"), ("llama",),
        {
            **_DECODER, "append_eos": True, "temperature": 0.01,
            "prompts": {"default": {"query": "query: ", "passage": "passage: "}},
        },
        max_length=512,  # its card; arXiv:2310.08319
    ),
    "qwen3-embedding": Preset(
        ("qwen/qwen3-embedding-0.6b", "qwen/qwen3-embedding-4b", "qwen/qwen3-embedding-8b"), ("qwen3",),
        # Its tokenizer ends a text with <|endoftext|>, which is not its eos_token.
        {**_DECODER, "prompts": {"default": {"query": _instruct(_WEB, gap=""), "passage": ""}}},
        max_length=8192,  # its card; arXiv:2506.05176
    ),
    "embeddinggemma": Preset(
        ("google/embeddinggemma-300m",), ("gemma3_text",),
        {
            "pooling": "mean", "normalize": True, "similarity": "cosine",
            "prompts": {
                "default": _GEMMA_SEARCH, "Retrieval": _GEMMA_SEARCH,
                **{task: _both(f"task: {text} | query: ") for task, text in _GEMMA_TASKS.items()},
            },
        },
        max_length=2048, has_files=True,  # its files; arXiv:2509.20354
    ),
    "e5-mistral": Preset(
        ("intfloat/e5-mistral-7b-instruct",), ("mistral",),
        {
            # transformers from version 5 on leaves out the end-of-sequence token that its tokenizer is set to add.
            **_DECODER, "append_eos": True, "temperature": 0.01,
            "prompts": {
                "default": {"query": _instruct(_WEB), "passage": ""},
                "web_search_query": {"query": _instruct(_WEB), "passage": ""},
                "sts_query": _both(_instruct(_STS)),
                "summarization_query": _both(_instruct(_SUMMARY)),
                "bitext_query": _both(_instruct(_PARALLEL)),
            },
        },
        max_length=4096,  # its card; arXiv:2401.00368
    ),
}  # fmt: skip
PRESETS["repllama-doc"] = replace(PRESETS["repllama"], repos=("castorini/repllama-v1-7b-lora-doc",), max_length=2048)
