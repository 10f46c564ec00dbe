"""Published retrievers embed as the usage code of their cards, which is built anew here on models of their shape."""

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from modeling_biencoder import BiEncoderModel
from modeling_biencoder.presets_biencoder import PRESETS
from modeling_biencoder.published_biencoder import recognised
from modeling_srlm import SelfRetrievalLM
from tests.support.published import bpe, decoder, lora, saved, sentence_files, wordpiece
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import load_adapted
from trainers.models.load import load_biencoder

QUERIES = ["how much protein should a female eat", "summit define", "where is the copper lantern now"]
PASSAGES = ["The highest point of a mountain.", "Llamas", "A query finds the passage that answers it. " * 3]
WEB = "Given a web search query, retrieve relevant passages that answer the query"
SIDES = ("left", "right")


def embedded(folder, texts, pool, side="right", end=()):
    """Vectors as the cards make them: padded batch, last hidden states, pooling, unit length."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    model = AutoModel.from_pretrained(folder).eval()
    rows = [{"input_ids": ids + list(end)} for ids in tokenizer(texts)["input_ids"]]
    batch = tokenizer.pad(rows, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    return F.normalize(pool(hidden, batch["attention_mask"]), dim=-1)


def last_token(hidden, mask):
    if mask[:, -1].sum() == mask.shape[0]:
        return hidden[:, -1]
    return hidden[torch.arange(len(hidden)), mask.sum(dim=1) - 1]


def first_token(hidden, mask):
    return hidden[:, 0]


def assert_embeds(model, expected, texts, role, task=None, **settings):
    """By `encode`, and by token ids padded on either side."""
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(model.encode(texts, role=role, task=task, **settings), expected, **close)
    batch = model.tokenize(texts, role=role, task=task, **settings)
    turned = {name: torch.zeros_like(rows) for name, rows in batch.items()}
    for i, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        for name, rows in batch.items():
            turned[name][i, rows.shape[1] - length :] = rows[i, :length]
    for padded in (batch, turned):
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(**padded).embeddings, expected, **close)


LLM_EMBEDDER = {
    "qa": ("Represent this query for retrieving relevant documents: ", "Represent this document for retrieval: "),
    "icl": (
        "Convert this example into vector to look for useful examples: ",
        "Convert this example into vector for retrieval: ",
    ),
    "chat": (
        "Embed this dialogue to find useful historical dialogues: ",
        "Embed this historical dialogue for retrieval: ",
    ),
    "lrlm": (
        "Embed this text chunk for finding useful historical chunks: ",
        "Embed this historical text chunk for retrieval: ",
    ),
    "tool": (
        "Transform this user request for fetching helpful tool descriptions: ",
        "Transform this tool description for retrieval: ",
    ),
    "convsearch": (
        "Encode this query and context for searching relevant passages: ",
        "Encode this passage for retrieval: ",
    ),
}


@pytest.fixture
def llm_embedder(tmp_path):
    folder = tmp_path / "models--BAAI--llm-embedder" / "snapshots" / "0123abc"
    tokenizer = wordpiece()
    saved(folder, tiny_backbone("bert", lm_head=False), tokenizer)
    sentence_files(folder, "cls_token", 32, {})
    return str(folder)


def test_llm_embedder_has_its_six_tasks(llm_embedder):
    model = BiEncoderModel.from_backbone(llm_embedder).eval()
    assert set(model.config.prompts) == {*LLM_EMBEDDER, "default"}
    for task, (query, key) in LLM_EMBEDDER.items():
        assert_embeds(
            model, embedded(llm_embedder, [query + text for text in QUERIES], first_token), QUERIES, "query", task
        )
        keys = embedded(llm_embedder, [key + text for text in PASSAGES], first_token)
        assert_embeds(model, keys, PASSAGES, "passage", task)
    torch.testing.assert_close(model.encode(QUERIES), model.encode(QUERIES, task="qa"))


def test_as_a_retriever_of_its_past_llm_embedder_has_its_prompts_for_that(llm_embedder):
    for kwargs in ({}, {"preset": "llm-embedder"}):
        lm = SelfRetrievalLM.from_components(
            tiny_backbone(), tiny_tokenizer(), retriever=llm_embedder, retriever_kwargs=kwargs,
            retrieval_method="dense", context_window_size=32, chunk_size=8,
        )  # fmt: skip
        for role, prefix in zip(("query", "passage"), LLM_EMBEDDER["lrlm"], strict=True):
            expected = embedded(llm_embedder, [prefix + text for text in QUERIES], first_token)
            torch.testing.assert_close(lm.retriever.encode(QUERIES, role=role), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", SIDES)
def test_bge_en_icl_with_and_without_examples(side, tmp_path):
    tokenizer = bpe("<s> $A </s>", ("<instruct>", "<query>", "<response>"))
    folder = str(saved(tmp_path, decoder("mistral", tokenizer), tokenizer))
    model = BiEncoderModel.from_backbone(folder).eval()  # by its tokens
    assert_embeds(model, embedded(folder, PASSAGES, last_token, side), PASSAGES, "passage")
    task = f"{WEB}."
    examples = [("what is a virtual interface", "An abstraction."), ("causes of back pain", "Muscle strain.")]
    blocks = [f"<instruct>{task}\n<query>{query}\n<response>{answer}" for query, answer in examples]
    for chosen, before in (((), ""), (examples, "\n\n".join(blocks) + "\n\n")):
        texts = [f"{before}<instruct>{task}\n<query>{query}\n<response>" for query in QUERIES]
        assert_embeds(model, embedded(folder, texts, last_token, side), QUERIES, "query", examples=chosen)


def test_llara_passage_reads_off_eight_tokens(tmp_path):
    tokenizer = bpe("<s> $A", tuple(f"<s{i}>" for i in range(1, 17)))
    folder = str(saved(tmp_path, decoder("llama", tokenizer), tokenizer))
    model = BiEncoderModel.from_backbone(folder).eval()
    query = '", predict the following passage within eight words: <s9><s10><s11><s12><s13><s14><s15><s16>'
    passage = '", summarize the above passage within eight words: <s1><s2><s3><s4><s5><s6><s7><s8>'
    for role, suffix, texts in (("query", query, QUERIES), ("passage", passage, PASSAGES)):
        before, after = tokenizer('"')["input_ids"], tokenizer(suffix)["input_ids"][1:]
        rows = [before + tokenizer(text, add_special_tokens=False)["input_ids"] + after for text in texts]
        tokenizer.padding_side = "left"
        batch = tokenizer.pad([{"input_ids": row} for row in rows], return_tensors="pt", pad_to_multiple_of=8)
        with torch.no_grad():
            hidden = AutoModel.from_pretrained(folder)(**batch, output_hidden_states=True).hidden_states[-1]
        assert_embeds(model, F.normalize(hidden[:, -8:].mean(dim=1), dim=-1), texts, role)


@pytest.mark.cases(1)
@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM])
def test_repllama_is_an_adapter_over_a_plain_decoder(auto_class, tmp_path):
    base = tmp_path / "base"
    tiny_backbone().save_pretrained(base)
    tokenizer = bpe("<s> $A")
    tokenizer.save_pretrained(base)
    folder = str(tmp_path / "models--castorini--repllama-v1-7b-lora-passage" / "snapshots" / "0a1b")
    merged = lora(folder, base, auto_class).merge_and_unload()
    made = [
        BiEncoderModel.from_backbone(folder),
        BiEncoderModel.from_backbone(folder, base=str(base), preset="repllama"),
        load_biencoder(folder),
        load_adapted(folder),
    ]
    for role, texts in (("query", QUERIES), ("passage", PASSAGES)):
        rows = [{"input_ids": tokenizer(f"{role}: {text}</s>")["input_ids"]} for text in texts]
        for side in SIDES:
            tokenizer.padding_side = side
            batch = tokenizer.pad(rows, return_tensors="pt")
            with torch.no_grad():
                hidden = merged(**batch, output_hidden_states=True).hidden_states[-1]
            expected = F.normalize(last_token(hidden, batch["attention_mask"]), dim=-1)
            for model in made:
                assert_embeds(model.eval(), expected, texts, role)
    assert made[0].config.text_config.name_or_path == folder  # of which an adapter would be trained
    assert all(value.requires_grad for value in made[0].parameters())


def test_an_adapter_that_was_merged_is_saved_whole_and_trains_further(tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    saved(base, tiny_backbone(), tiny_tokenizer())
    lora(folder, base)
    model = BiEncoderModel.from_backbone(str(folder), preset="repllama").eval()
    model.save_pretrained(tmp_path / "whole")
    again = BiEncoderModel.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(again.encode(QUERIES), model.encode(QUERIES), rtol=0, atol=1e-6)
    adapted = load_adapted(folder, preset="repllama", is_trainable=True)
    trained = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    adapted.save_pretrained(tmp_path / "further")
    torch.testing.assert_close(
        load_adapted(tmp_path / "further").encode(QUERIES), model.encode(QUERIES), rtol=0, atol=1e-5
    )


QWEN_QUERY = f"Instruct: {WEB}\nQuery:"


@pytest.mark.parametrize("files", [True, False])
def test_qwen3_embedding_ends_with_the_token_of_its_tokenizer(files, tmp_path):
    tokenizer = bpe(
        "$A <|endoftext|>", ("<|endoftext|>", "<|im_end|>"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    folder = str(saved(tmp_path / "Qwen3-Embedding-0.6B", decoder("qwen3", tokenizer), tokenizer))
    if files:
        sentence_files(tmp_path / "Qwen3-Embedding-0.6B", "lasttoken", 32, {"query": QWEN_QUERY, "document": ""})
    model = BiEncoderModel.from_backbone(folder, preset=None if files else "qwen3-embedding").eval()
    for side in SIDES:
        assert_embeds(
            model, embedded(folder, [QWEN_QUERY + text for text in QUERIES], last_token, side), QUERIES, "query"
        )
        assert_embeds(model, embedded(folder, PASSAGES, last_token, side), PASSAGES, "passage")


GEMMA_PROMPTS = {
    "query": "task: search result | query: ", "document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ", "Retrieval": "task: search result | query: ",
    "Retrieval-query": "task: search result | query: ", "Retrieval-document": "title: none | text: ",
}  # fmt: skip


def test_embeddinggemma_has_two_dense_layers_behind_a_mean(tmp_path):
    tokenizer = bpe("<s> $A </s>")
    saved(tmp_path, decoder("gemma3_text", tokenizer), tokenizer)
    folder = str(tmp_path)
    with pytest.raises(ValueError, match="dense layers of 'embeddinggemma' lie: fetch the repo whole"):
        BiEncoderModel.from_backbone(folder, preset="embeddinggemma")
    sentence_files(tmp_path, "mean_tokens", 32, GEMMA_PROMPTS, dense=(48, 32))
    from safetensors.torch import load_file

    layers = [load_file(f"{folder}/{number}_Dense/model.safetensors")["linear.weight"] for number in (2, 3)]

    def pool(hidden, mask):
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return mean @ layers[0].T @ layers[1].T

    for model in (BiEncoderModel.from_backbone(folder), BiEncoderModel.from_backbone(folder, preset="embeddinggemma")):
        for task in (None, "Retrieval"):
            for role, prefix, texts in (
                ("query", "task: search result | query: ", QUERIES), ("passage", "title: none | text: ", PASSAGES),
            ):  # fmt: skip
                expected = embedded(folder, [prefix + text for text in texts], pool)
                assert_embeds(model.eval(), expected, texts, role, task)


def test_e5_mistral_ends_with_a_token_that_its_tokenizer_may_leave_out(tmp_path):
    tokenizer = bpe("<s> $A")
    folder = str(saved(tmp_path, decoder("mistral", tokenizer), tokenizer))
    prompts = {"web_search_query": f"Instruct: {WEB}\nQuery: ", "sts_query": "Instruct: Retrieve it.\nQuery: "}
    sentence_files(tmp_path, "lasttoken", 32, prompts)
    (tmp_path / "README.md").write_text("model = SentenceTransformer('intfloat/e5-mistral-7b-instruct')")
    model = BiEncoderModel.from_backbone(folder).eval()  # by its card
    for side in SIDES:
        texts = [f"Instruct: {WEB}\nQuery: {query}" for query in QUERIES]
        expected = embedded(folder, texts, last_token, side, [tokenizer.eos_token_id])
        for task in (None, "web_search_query"):
            assert_embeds(model, expected, QUERIES, "query", task)
        expected = embedded(folder, PASSAGES, last_token, side, [tokenizer.eos_token_id])
        for task in (None, "web_search_query"):
            assert_embeds(model, expected, PASSAGES, "passage", task)
    assert model.config.prompts["sts_query"]["query"] == "Instruct: Retrieve it.\nQuery: "  # the file's own


def test_what_the_caller_says_wins_over_the_files_and_these_over_the_preset(llm_embedder, caplog):
    model = BiEncoderModel.from_backbone(llm_embedder, pooling="mean", max_length=64, prompts={})
    assert (model.config.pooling, model.config.max_length, model.config.prompts) == ("mean", 64, {})
    plain = BiEncoderModel.from_backbone(llm_embedder, preset="none")
    assert plain.config.prompts == {} and plain.config.pooling == "cls"


def test_a_repo_is_recognised_by_its_id_in_any_case_and_nothing_else_is(tmp_path):
    for name, preset in PRESETS.items():
        assert all(recognised(repo.upper(), {}) == name for repo in preset.repos)
    saved(tmp_path, tiny_backbone(), tiny_tokenizer())
    (tmp_path / "README.md").write_text('AutoModel.from_pretrained("BAAI/llm-embedder")')
    assert recognised(tmp_path, {}) is None  # of another family
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_name_or_path": "BAAI/LLARA-passage"}))
    assert recognised(tmp_path, {}) == "llara"
    with pytest.raises(ValueError, match=r"the token '<s1>' in its prompts, and the tokenizer has not"):
        BiEncoderModel.from_backbone(str(tmp_path))


def test_bad_input_is_one_line_with_the_fix(tmp_path):
    saved(tmp_path / "lm", tiny_backbone(), tiny_tokenizer())
    with pytest.raises(ValueError, match="did you mean 'llm-embedder'"):
        BiEncoderModel.from_backbone(str(tmp_path / "lm"), preset="llm-embeder")
    with pytest.raises(ValueError, match="weights of its own: leave it out"):
        BiEncoderModel.from_backbone(str(tmp_path / "lm"), base="other")
    lora(tmp_path / "adapter", tmp_path / "lm")
    with pytest.raises(ValueError, match=r"--pooling last_token, cls or mean, name the published model .* --preset"):
        load_biencoder(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"give preset=\.\.\. or pooling=\.\.\. for a bi-encoder"):
        load_adapted(tmp_path / "adapter")
    (tmp_path / "lm").rename(tmp_path / "moved")
    for load in (BiEncoderModel.from_backbone, load_biencoder):
        with pytest.raises(ValueError, match=r"cannot be read here .* lookback merge --model .* --base"):
            load(str(tmp_path / "adapter"), preset="repllama")
    moved = BiEncoderModel.from_backbone(str(tmp_path / "adapter"), preset="repllama", base=str(tmp_path / "moved"))
    assert moved.encode(QUERIES).shape == (3, 32)


def test_a_pickled_adapter_is_read_on_the_callers_word_alone(tmp_path):
    from safetensors.torch import load_file

    saved(tmp_path / "lm", tiny_backbone(), tiny_tokenizer())
    lora(tmp_path / "adapter", tmp_path / "lm")
    expected = BiEncoderModel.from_backbone(str(tmp_path / "adapter"), preset="repllama").encode(QUERIES)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(file), tmp_path / "adapter" / "adapter_model.bin")
    file.unlink()
    with pytest.raises(ValueError, match="pickle"):
        BiEncoderModel.from_backbone(str(tmp_path / "adapter"), preset="repllama")
    model = BiEncoderModel.from_backbone(str(tmp_path / "adapter"), preset="repllama", use_safetensors=False)
    torch.testing.assert_close(model.encode(QUERIES), expected)
