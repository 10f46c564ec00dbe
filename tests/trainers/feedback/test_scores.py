"""The language model's feedback, as numbers: rows of every format, and documents."""

import random
from itertools import pairwise

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support import quick_first
from tests.support.feedback import ROWS, TEXTS, candidates, plain_score, scorer
from tests.support.tiny import TEXT, random_ids, tiny_backbone, tiny_tokenizer, with_special_tokens
from tests.support.training import arguments, logged
from trainers import BiEncoderTrainer, BiEncoderTrainingArguments
from trainers.data.sources import RowError
from trainers.feedback.candidates import Candidates
from trainers.feedback.documents import DocumentFeedback, least_tokens, score_prefix
from trainers.feedback.formats import count_tokens, place_space, read_question
from trainers.feedback.rows import RowFeedback, fit_prompts


def feedback(lm: SelfRetrievalLM, rows: list[dict], **settings) -> list[dict]:
    task = RowFeedback(lm, rows, **settings)
    return [row for group in range(task.num_groups) for row in task.score(group)]


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("task", ROWS)
def test_scores_are_those_of_the_backbone(family, task):
    lm, ids = scorer(family), lambda text: tiny_tokenizer()(text)["input_ids"]
    before, answer = TEXTS[task]
    (row,) = feedback(lm, [ROWS[task]], task=task, mean=False)
    plain = [
        plain_score(lm.language_model, ids(before.format(c.strip())), ids(answer)) for c in candidates(ROWS[task])
    ]
    assert row == {**ROWS[task], "teacher_scores": pytest.approx(plain, abs=2e-5)}
    assert max(plain) - min(plain) > 1e-3
    (mean,) = feedback(lm, [ROWS[task]], task=task)
    assert mean["teacher_scores"] == pytest.approx([score / len(ids(answer)) for score in plain], abs=1e-5)


def test_the_query_is_scored_where_there_is_no_answer():
    row = {"query": "is it long?", "pos": ["is it old?\nyes"], "neg": ["no", "maybe"], "task": "icl"}
    lm, ids = scorer(), lambda text: tiny_tokenizer()(text)["input_ids"]
    (scored,) = feedback(lm, [row], target="query", mean=False)
    plain = [plain_score(lm.language_model, ids(f"{c}\n"), ids("is it long?")) for c in candidates(row)]
    assert scored["teacher_scores"] == pytest.approx(plain, abs=2e-5)


def test_one_of_several_answers_is_drawn_by_row():
    row = {**ROWS["icl"], "answers": ["yes", "no", "maybe"]}
    drawn = [read_question(row, number, "icl", "answer", seed=5).scored for number in range(40)]
    assert set(drawn) == {"yes", "no", "maybe"}
    assert drawn == [read_question(row, number, "icl", "answer", seed=5).scored for number in range(40)]


def test_neighbours_change_nothing_but_the_order_of_rows():
    lm = scorer()
    rows = [{**ROWS[task], "task": task} for task in ROWS]
    together = feedback(lm, rows)
    assert [row["task"] for row in together] == list(ROWS)
    for row, alone in zip(together, (feedback(lm, [row])[0] for row in rows), strict=True):
        assert row["teacher_scores"] == pytest.approx(alone["teacher_scores"], abs=1e-5)


def test_the_candidate_is_cut_never_query_or_answer():
    lm, tokenizer = scorer(window=64), with_special_tokens()
    lm.tokenizer = tokenizer
    long = " the copper lantern ¼ ½ ¾" * 30
    row = {**ROWS["qa"], "neg": ["it", long]}
    question = place_space(read_question(row, 0, "qa", "answer", 0), tokenizer)
    prompts = fit_prompts(lm, question)
    assert prompts[:3] == [question.prompt(text) for text in ("the island", "a candle", "it")]
    assert prompts == fit_prompts(scorer(window=64), question)  # what a tokenizer puts around a text takes no room
    kept = prompts[3].removeprefix("Knowledge: ").removesuffix("\n\nQuestion: where is the lantern?\n\nAnswer:")
    assert kept and long.strip().startswith(kept)
    assert 64 - 4 <= count_tokens(prompts[3] + question.scored, tokenizer) <= 64
    short, longer = feedback(lm, [row, {**row, "neg": ["it", long + " and the hammer"]}], task="qa")
    assert short["teacher_scores"] == pytest.approx(longer["teacher_scores"], abs=1e-5)


@pytest.mark.parametrize("before", range(8))
def test_a_cut_through_a_character_leaves_whole_ones_that_fit(before):
    tokenizer = tiny_tokenizer()
    row = {**ROWS["qa"], "pos": ["q" * before + "語é 語  \n語" * 9], "neg": []}
    question = place_space(read_question(row, 0, "qa", "answer", 0), tokenizer)
    (prompt,) = fit_prompts(scorer(window=64), question)
    assert "\ufffd" not in prompt and "語" in prompt
    assert count_tokens(prompt + question.scored, tokenizer) <= 64


def test_the_space_before_the_answer_is_counted_once():
    pieces = ["<unk>", "▁", *"Anwers:oth ild", "▁o", "▁on", "▁A", "▁An"]
    merges = [("▁", "o"), ("▁o", "n"), ("▁", "A"), ("▁A", "n")]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])  # Llama's
    sentence_piece = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    question = read_question({**ROWS["qa"], "answers": ["on it"]}, 0, "qa", "answer", 0)
    for kind, scored in ((tiny_tokenizer(), " on it"), (sentence_piece, "on it")):
        placed = place_space(question, kind)
        assert placed.scored == scored
        assert placed.prompt("x") + placed.scored == question.prompt("x") + question.scored
        whole, before = (count_tokens(text, kind) for text in ("Answer: on it", "Answer:"))
        assert count_tokens(placed.scored, kind) == whole - before


BAD_ROWS = {
    "'answers' is missing.*--target query": {"answers": None},
    r"'answers' has a blank text at 1": {"answers": ["a", " "]},
    "'query' is ''": {"query": ""},
    r"'neg' has a blank text at 0": {"neg": [""]},
    "no candidates": {"pos": [], "neg": None},
    "'pos' is 'text'; it must be a list": {"pos": "text"},
    "'task' is None.*--task": {"task": None},
    "'task' is 'qu'": {"task": "qu"},
    "'tool' have no answer": {"task": "tool"},
    "take 3.. tokens without any candidate.*window has 256": {"query": "xyz" * 100},
}


@pytest.mark.parametrize("message", BAD_ROWS)
def test_bad_rows_are_named_before_any_is_scored(message):
    good = {**ROWS["qa"], "task": "qa"}
    with pytest.raises(ValueError, match=rf"(?s)Row 1 \(the first is 0\): .*{message}"):
        RowFeedback(scorer(), [good, {**good, **BAD_ROWS[message]}])


def document_lm(**settings) -> SelfRetrievalLM:
    sizes = {"context_window_size": 64, "chunk_size": 16, "target_size": 32, "retrieval_method": "bm25", **settings}
    return SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **sizes)


def test_chunks_are_scored_behind_each_key_and_the_best_comes_first():
    lm, tokens = document_lm(), random_ids(16 * 12 + 5)
    chunks = tokens[5:].view(12, 16)
    rows = score_prefix(lm, tokens, None, random.Random(0))
    assert [row["query"] for row in rows] == lm.tokenizer.batch_decode(chunks[9:11])
    keys = lm.tokenizer.batch_decode(chunks[:7])
    for row, target in zip(rows, (10, 11), strict=True):
        before = chunks[8:target].flatten().tolist()
        plain = [
            plain_score(lm.language_model, chunks[key : key + 2].flatten().tolist() + before, chunks[target].tolist())
            for key in range(7)
        ]
        found = dict(zip(row["pos"] + row["neg"], row["teacher_scores"], strict=True))
        assert found == pytest.approx(dict(zip(keys, plain, strict=True)), abs=1e-4)
        assert row["teacher_scores"][0] == max(row["teacher_scores"]) and len(row["pos"]) == 1


def test_some_candidates_are_bm25_s_best_and_random_ones():
    lm = document_lm()
    tokens = random_ids(16 * 40)
    tokens[16 * 3 : 16 * 4] = tokens[-32:-16]  # the query of the last target stands in the document before
    (_, last) = score_prefix(lm, tokens, Candidates(bm25=1, random=3), random.Random(0))
    assert lm.tokenizer.decode(tokens[48:64]) in last["pos"] + last["neg"]
    assert 4 <= len(last["teacher_scores"]) <= 5


def test_with_kept_states_each_target_tries_its_own_candidates():
    lm = document_lm(reuse_states=True, key_num=1)
    tokens = random_ids(16 * 40)
    tokens[16 * 3 : 16 * 4] = tokens[-32:-16]  # the query of the last target stands in the document before
    tokens[16 * 7 : 16 * 8] = tokens[-48:-32]  # and that of the one before it
    rows = score_prefix(lm, tokens, Candidates(bm25=1, random=0, dense=0), random.Random(0))
    assert rows == []  # one candidate teaches nothing
    first, last = score_prefix(lm, tokens, Candidates(bm25=1, random=3), random.Random(0))
    assert all(3 <= len(row["teacher_scores"]) <= 4 for row in (first, last))
    assert lm.tokenizer.decode(tokens[48:64]) in last["pos"] + last["neg"]
    assert lm.tokenizer.decode(tokens[16 * 7 : 16 * 8]) in first["pos"] + first["neg"]


@pytest.mark.slow
def test_with_kept_states_one_reading_scores_a_whole_document(monkeypatch):
    lm, read = document_lm(reuse_states=True, key_num=1), []
    documents = datasets.Dataset.from_list([{"text": TEXT * 5}, {"text": "short"}])
    length, least = count_tokens(TEXT * 5, tiny_tokenizer()), least_tokens(lm.config)
    tokens = torch.tensor(tiny_tokenizer()(TEXT * 5)["input_ids"])
    wanted = []
    for end in range(least + (length - least) % 16, length + 1, 16):  # a cut behind each chunk
        wanted += score_prefix(lm, tokens[end % 16 : end], None, random.Random(0), scored=16)
    lm.language_model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    task = DocumentFeedback(lm, documents, candidates=None, mean=False)
    assert task.num_groups == 1
    found = task.score(0)
    assert sum(shape.numel() for shape in read if shape[0] == 1) <= length + 20 * 16
    assert [row["query"] for row in found] == [row["query"] for row in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one["teacher_scores"] == pytest.approx(other["teacher_scores"], abs=1e-4)
    monkeypatch.setattr("trainers.feedback.documents.BLOCKS_A_READING", 2)
    parts = DocumentFeedback(lm, documents, candidates=None, mean=False)
    assert parts.num_groups > 1
    again = [row for group in range(parts.num_groups) for row in parts.score(group)]
    for one, other in zip(again, wanted, strict=True):
        assert one["teacher_scores"] == pytest.approx(other["teacher_scores"], abs=1e-4)
    short = DocumentFeedback(lm, documents, candidates=None, document_length=160, mean=False)
    rows = [row for group in range(short.num_groups) for row in short.score(group)]
    assert [row["query"] for row in rows] == [row["query"] for row in wanted]


@pytest.mark.slow
def test_with_kept_states_bm25_ranks_the_keys_that_a_target_has():
    lm, tokens = document_lm(reuse_states=True, key_num=1), random_ids(16 * 40)
    with torch.no_grad():
        own = lm(tokens[None], labels=tokens[None]).retrieved_indices[0, :, 0]
    keys = lm.tokenizer.batch_decode(tokens.view(40, 16).tolist(), skip_special_tokens=True)
    for seed in range(3):  # whatever else is tried, and however many are scored at once
        rows = score_prefix(lm, tokens, Candidates(1, 2), random.Random(seed), scored=16 * 30)
        assert len(rows) == 30
        for row, key in zip(rows, own[-30:].tolist(), strict=True):
            assert keys[key] in row["pos"] + row["neg"]


@pytest.mark.parametrize("length", [16 * 14, 16 * 14 + 1, 16 * 14 + 5])
def test_a_text_that_begins_with_the_bos_token(length):
    lm = document_lm(reuse_states=True, key_num=1, add_bos=True)
    tokens = random_ids(length)
    tokens[length % 16] = lm.config.bos_id
    rows = score_prefix(lm, tokens, None, random.Random(0))
    assert len(rows) == 2 and all(len(row["teacher_scores"]) > 2 for row in rows)


class Lengths:
    """A retriever that finds the text whose number of letters is nearest to the query's."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


@pytest.mark.parametrize("reuse", [True, False])
def test_candidates_that_the_model_s_own_retriever_finds(reuse):
    lm = document_lm(reuse_states=reuse, key_num=1)
    documents = datasets.Dataset.from_list([{"text": TEXT * 5}])
    with pytest.raises(ValueError, match="dense_candidates is 2 and the model has no retriever"):
        DocumentFeedback(lm, documents, candidates=Candidates(0, 0, 2))
    lm.retriever = Lengths()
    tokens = random_ids(16 * 30)
    num_keys = 2 + 30 - least_tokens(lm.config) // 16
    texts = lm.tokenizer.batch_decode(tokens.view(30, 16)[:num_keys].tolist(), skip_special_tokens=True)
    longest = sorted(texts, key=len)[-2:]
    last = score_prefix(lm, tokens, Candidates(0, 0, 2), random.Random(0))[-1]
    assert sorted(map(len, last["pos"] + last["neg"])) == list(map(len, longest))


def test_documents_are_cut_behind_every_target_block_that_has_keys():
    lm, tokenizer = document_lm(), tiny_tokenizer()
    least, length = least_tokens(lm.config), count_tokens(TEXT * 5, tokenizer)
    assert least == 64 + 16 + 32
    documents = datasets.Dataset.from_list([{"text": TEXT * 5}, {"text": "short"}])
    every = DocumentFeedback(lm, documents)
    ends = [cut.end for cut in every.groups]
    assert ends[-1] == length and ends[0] - 32 < least <= ends[0]
    assert len(ends) > 3 and all(later - earlier == 32 for earlier, later in pairwise(ends))
    drawn = DocumentFeedback(lm, documents, cuts=3, document_length=128)
    assert len(drawn.groups) == 3 and all(least <= cut.end <= length for cut in drawn.groups)
    assert drawn.groups == DocumentFeedback(lm, documents, cuts=3, document_length=128).groups
    sums = DocumentFeedback(lm, documents, cuts=3, document_length=128, mean=False)
    for mean_row, sum_row in zip(drawn.score(1), sums.score(1), strict=True):
        assert [16 * score for score in mean_row["teacher_scores"]] == pytest.approx(
            sum_row["teacher_scores"], abs=1e-4
        )


@pytest.mark.cases(1)
@pytest.mark.parametrize("settings", [{}, {"integrate_method": "replace", "target_size": 16}])
def test_with_kept_states_each_target_has_the_keys_before_its_own_window(settings):
    lm = document_lm(reuse_states=True, key_num=1, **settings)
    least = least_tokens(lm.config)
    (row,) = score_prefix(lm, random_ids(least + 5), None, random.Random(0))
    assert len(row["teacher_scores"]) == 2
    tokens = random_ids(16 * 14 + 5)
    chunks = tokens[5:].view(14, 16)
    keys = lm.tokenizer.batch_decode(chunks)
    wanted = lm.score_candidates(chunks.reshape(1, -1), labels=chunks.reshape(1, -1))[0]
    rows = score_prefix(lm, tokens, None, random.Random(0), scale=0.5)
    for row, target in zip(rows[::-1], (13, 12), strict=False):
        found = dict(zip(row["pos"] + row["neg"], row["teacher_scores"], strict=True))
        expected = {keys[key]: 0.5 * float(wanted[target, key]) for key in range(target - (3 if settings else 5))}
        assert found == pytest.approx(expected, abs=1e-4)
        assert row["teacher_scores"][0] == max(row["teacher_scores"]) and row["query"] == keys[target - 1]


def test_replaced_windows_offer_their_oldest_chunks_too():
    lm = document_lm(integrate_method="replace", target_size=16)
    tokens = random_ids(16 * 8)
    (row,) = score_prefix(lm, tokens, None, random.Random(0))
    assert len(row["teacher_scores"]) == 8 - 4 + 1
    assert all(score > float("-inf") for score in row["teacher_scores"])


@pytest.mark.parametrize(
    "settings, message",
    [({}, "longest document has .* two keys from 112 tokens"), ({"document_length": 100}, "document_length is 100")],
)
def test_documents_that_are_too_short(settings, message):
    with pytest.raises(ValueError, match=message):
        DocumentFeedback(document_lm(), datasets.Dataset.from_list([{"text": "short"}]), **settings)


@pytest.mark.parametrize("kind", quick_first(["document", *ROWS]))
def test_the_output_trains_a_biencoder(tmp_path, kind):
    if kind == "document":
        task = DocumentFeedback(document_lm(), datasets.Dataset.from_list([{"text": TEXT * 5}]), cuts=3)
        rows = [row for group in range(task.num_groups) for row in task.score(group)]
    else:
        rows = feedback(scorer(), [ROWS[kind]] * 4, task=kind)
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    before = model.backbone.get_input_embeddings().weight.detach().clone()
    args = arguments(BiEncoderTrainingArguments, tmp_path, max_steps=2, train_group_size=2)
    trainer = BiEncoderTrainer(model, args, rows)
    trainer.train()
    losses = logged(trainer, "loss")
    assert len(losses) == 2 and min(losses) > 0
    assert not torch.equal(before, model.backbone.get_input_embeddings().weight)


def test_scores_that_are_no_numbers_are_no_teacher():
    lms = [scorer("llama"), document_lm()]
    for lm in lms:
        with torch.no_grad():
            lm.language_model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(RowError, match=r"scores are \[nan.*must be finite: take another teacher"):
        feedback(lms[0], [ROWS["qa"]], task="qa")
    with pytest.raises(ValueError, match="the language model's scores are NaN"):
        score_prefix(lms[1], random_ids(16 * 12), None, random.Random(0))
