"""Drawn rows and settings against a self-retrieval LM by its definition (tests/support/plain/srlm.py)."""

from functools import lru_cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_srlm import SelfRetrievalLM
from tests.support.cases import TOKENS, drawn, tiny
from tests.support.plain import srlm as plain
from tests.support.plain.choices import CLOSE, check_choice, check_fused, check_set
from tests.support.tiny import tiny_backbone

FAMILIES = ("llama", "qwen", "gpt2", "opt")
METHODS = ("no", "recent", "random", "bm25", "dense", "self", "hybrid", "oracle")
WORDS = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, 47)), "Speaker", "1:", "2:"]


class Counts:
    """A retriever whose vectors are whole numbers, so that no rounding ranks: how often each word is in a text."""

    def encode(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([_counts(text.split()) for text in texts], dtype=torch.float32)


def _counts(words: list[str]) -> list[float]:
    numbers = [0.0] * 11
    for word in words:
        numbers[WORDS.index(word) % 11] += 1
    return numbers


@lru_cache
def _model(family: str) -> SelfRetrievalLM:
    model = SelfRetrievalLM.from_components(
        tiny_backbone(family, **tiny(family)).double(), _tokenizer(), Counts(), context_window_size=8, chunk_size=2
    )
    model.generation_config.eos_token_id = None
    return model


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _drawn_model(draw: Any, methods: tuple[str, ...] = METHODS) -> SelfRetrievalLM:
    model = _model(draw(st.sampled_from(FAMILIES)))
    config, size = model.config, draw(st.integers(1, 3))
    config.chunk_size, config.key_num = size, draw(st.integers(1, 3))
    config.retrieval_method = draw(st.sampled_from(methods))
    config.integrate_method = draw(st.sampled_from(("concat", "replace")))
    config.order_method = draw(st.sampled_from(("sequential", "relevance")))
    least = 2 + (2 * config.key_num if config.integrate_method == "replace" else 0)
    window = draw(st.integers(least, least + 3))
    config.context_window_size = window * size
    most = window - 1 - (least - 2)
    target = draw(st.one_of(st.none(), st.integers(1, most)))
    config.target_size = None if target is None else target * size
    config.add_key_continuation, config.add_bos = draw(st.booleans()), draw(st.booleans())
    config.add_sep = draw(st.one_of(st.none(), st.lists(TOKENS, min_size=1, max_size=min(size + 1, 2 * size - 1))))
    config.instruction = draw(st.sampled_from((None, {"query": "w3 w4 ", "key": "w7 "}, {"query": "", "key": "w5 "})))
    config.chunk_batch_size, config.seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    config.oracle_search = draw(st.sampled_from(("single", "greedy")))
    config.fusion_constant = draw(st.sampled_from((60, 1)))
    config.bm25_k1, config.bm25_b = draw(st.sampled_from(((1.5, 0.75), (0.0, 0.3), (2.0, 1.0))))
    config.check()
    return model


def _reader(model: SelfRetrievalLM) -> plain.Reader:
    config = model.config
    bos = [config.bos_id] if config.add_bos else []

    def encode(ids: list[int], role: str) -> list[float]:
        if config.retrieval_method == "self":
            return plain.state_of(model.language_model, ids, bos)
        before = (config.instruction or {}).get(role, "").split()
        return _counts([*before, *(WORDS[i] for i in ids if i > 2)])

    return plain.Reader(model.language_model, config, encode)


words = st.lists(st.integers(3, 12), min_size=2, max_size=26)  # few different ones, so that chunks are alike


def _pad(draw: Any, rows: list[list[int]], labels: list[list[int]]) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The rows with padding on both sides, the labels likewise, and where each row begins."""
    longest = max(map(len, rows)) + draw(st.integers(0, 2))
    befores = [draw(st.integers(0, longest - len(row))) for row in rows]
    parts: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for row, own, before in zip(rows, labels, befores, strict=True):
        behind = longest - len(row) - before
        parts["input_ids"].append([draw(TOKENS)] * before + row + [2] * behind)
        parts["attention_mask"].append([0] * before + [1] * len(row) + [0] * behind)
        parts["labels"].append([-100] * before + own + [-100] * behind)
    return {name: torch.tensor(part) for name, part in parts.items()}, befores


def _labelled(draw: Any, row: list[int]) -> list[int]:
    """Labels of a span of the row, with gaps; another token's id now and then."""
    first = draw(st.integers(0, len(row) - 1))
    last = draw(st.integers(first + 1, len(row)))
    holes = draw(st.sets(st.integers(first, last - 1), max_size=3))
    return [token if first <= i < last and i not in holes else -100 for i, token in enumerate(row)]


@drawn
@given(st.data())
def test_losses(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw)
    reader = _reader(model)
    rows = draw(st.lists(words, min_size=1, max_size=3))
    labels = [_labelled(draw, row) for row in rows]
    assume(any(label != -100 for own in labels for label in own[1:]))
    batch, befores = _pad(draw, rows, labels)
    with torch.no_grad():
        output = model(**batch, output_logits=True)
    losses: list[float] = []
    for number, (row, own) in enumerate(zip(rows, labels, strict=True)):
        losses += _check_row(model, reader, output, number, row, own, befores[number])
    assert output.num_scored_tokens == len(losses)
    assert float(output.loss) == pytest.approx(sum(losses) / len(losses), abs=1e-5, rel=1e-5)


def _check_row(
    model: SelfRetrievalLM, reader: plain.Reader, output: Any, number: int, row: list, labels: list, before: int
) -> list[float]:
    """The losses of the row's scored tokens, after what is retrieved, logits and each target's loss are checked."""
    end = max((i + 1 for i, label in enumerate(labels) if label != -100), default=0)
    ids, own = row[:end], labels[:end]
    targets = [(target, block) for block in (reader.blocks(own) if end else ()) for target in range(*block)]
    numbers = output.target_indices[number].tolist()
    assert numbers == [target for target, _ in targets] + [-1] * (len(numbers) - len(targets))
    losses: list[float] = []
    logits: dict[int, list[float]] = {}
    for column, (target, (_, stop)) in enumerate(targets):
        retrieved = output.retrieved_indices[number, column].tolist()
        _check_retrieved(model, reader, ids, own, target, stop, retrieved)
        _check_scores(model, reader, ids, target, stop, retrieved, output.retrieved_scores[number, column].tolist())
        found = reader.logits(ids, own, target, stop, retrieved)
        logits |= found
        part = [plain.loss_of(values, own[place]) for place, values in found.items()]
        ours = float(output.target_losses[number, column])
        assert ours != ours if not part else ours == pytest.approx(sum(part) / len(part), abs=1e-5, rel=1e-5)
        losses += part
    _check_logits(output.logits[number], logits, before)
    return losses


def _check_retrieved(
    model: SelfRetrievalLM, reader: plain.Reader, ids: list, labels: list, target: int, stop: int, retrieved: list
) -> None:
    config, keys = model.config, reader.keys(stop)
    if config.retrieval_method == "no":
        assert set(retrieved) == {-1}
    elif config.retrieval_method == "random":  # drawn anew for each target, by the seed and the target alone
        scores = torch.rand(keys, generator=torch.Generator().manual_seed(config.seed + target)).tolist()
        check_choice(retrieved, scores, config.key_num)
    elif config.retrieval_method == "hybrid":
        check_fused(retrieved, reader.fused(ids, target, stop, CLOSE), config.key_num)
    elif config.retrieval_method == "oracle" and config.oracle_search == "greedy":
        check_set(reader, ids, labels, target, stop, retrieved)
    elif config.retrieval_method == "oracle":
        check_choice(retrieved, reader.oracle(ids, labels, target, stop), config.key_num)
    else:
        rounded = config.retrieval_method == "self"
        check_choice(retrieved, reader.scores(ids, target, stop), config.key_num, rounded)


def _check_scores(
    model: SelfRetrievalLM, reader: plain.Reader, ids: list, target: int, stop: int, retrieved: list, ours: list
) -> None:
    if model.config.retrieval_method in ("no", "random", "hybrid", "oracle"):
        return
    scores = reader.scores(ids, target, stop)
    expected = [scores[key] if key >= 0 else float("-inf") for key in retrieved]
    assert ours == pytest.approx(expected, abs=1e-5, rel=1e-5)


def _check_logits(ours: torch.Tensor, expected: dict[int, list[float]], before: int) -> None:
    """At the place before each scored token what predicts it, zero elsewhere."""
    wanted = torch.zeros_like(ours)
    for place, values in expected.items():
        wanted[before + place - 1] = torch.tensor(values, dtype=wanted.dtype)
    torch.testing.assert_close(ours, wanted, rtol=1e-7, atol=1e-7)


@drawn
@given(st.data())
def test_logits_of_every_position(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw, ("no", "recent", "dense", "bm25"))
    reader = _reader(model)
    rows = draw(st.lists(words, min_size=1, max_size=2))
    batch, befores = _pad(draw, rows, rows)
    del batch["labels"]
    with torch.no_grad():
        output = model(**batch)
    assert output.loss is None
    for number, row in enumerate(rows):
        ids = [*row, 0]  # the token that is predicted last, whatever it is
        targets = [(target, block) for block in reader.blocks(ids) for target in range(*block)]
        found = {}
        for column, (target, (_, stop)) in enumerate(targets):
            retrieved = output.retrieved_indices[number, column].tolist()
            _check_retrieved(model, reader, ids, ids, target, stop, retrieved)
            found |= reader.logits(ids, ids, target, stop, retrieved)
        _check_logits(output.logits[number], found, befores[number])


@drawn
@given(st.data())
def test_candidates(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw, ("oracle",))
    reader = _reader(model)
    rows = draw(st.lists(words, min_size=1, max_size=2))
    labels = [_labelled(draw, row) for row in rows]
    assume(all(any(label != -100 for label in own[1:]) for own in labels))
    batch, _ = _pad(draw, rows, labels)
    named = draw(st.one_of(st.none(), st.lists(st.integers(-1, 12), min_size=1, max_size=3)))
    candidates = None if named is None else torch.tensor([named] * len(rows))
    found = model.score_candidates(**batch, candidates=candidates)
    for number, (row, own) in enumerate(zip(rows, labels, strict=True)):
        end = max(i + 1 for i, label in enumerate(own) if label != -100)
        targets = [(target, stop) for first, stop in reader.blocks(own[:end]) for target in range(first, stop)]
        for (target, stop), ours in zip(targets, found[number], strict=False):
            keys = range(len(ours)) if named is None else named
            expected = [
                reader.likelihood(row[:end], own[:end], target, stop, [key])
                if 0 <= key < reader.keys(stop)
                else float("-inf")
                for key in keys
            ]
            torch.testing.assert_close(ours, torch.tensor(expected), rtol=1e-4, atol=1e-4)
        assert (found[number, len(targets) :] == float("-inf")).all()


def _retrieve(model: SelfRetrievalLM, reader: plain.Reader) -> Any:
    """What generation retrieves, by a method without rounding."""

    def retrieve(ids: list[int], target: int, end: int) -> list[int]:
        # The target is the chunk that comes next, behind all whole chunks.
        if model.config.retrieval_method == "no":
            return []
        scores = reader.scores(ids, target, end)
        return sorted(range(len(scores)), key=lambda key: (-scores[key], key))[: model.config.key_num]

    return retrieve


@pytest.mark.slow
@drawn
@given(st.data())
def test_generation(data: st.DataObject) -> None:
    """Greedy, or by chance: each token is drawn from what the plain reader says behind those before it."""
    draw = data.draw
    model = _drawn_model(draw, ("no", "recent", "dense"))
    reader = _reader(model)
    rows, count, sample = draw(st.lists(words, min_size=1, max_size=2)), draw(st.integers(1, 8)), draw(st.booleans())
    batch, _ = _pad(draw, rows, rows)
    torch.manual_seed(draw(st.integers(0, 99)))
    found = model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=count, do_sample=sample,
        use_cache=draw(st.booleans()), output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    retrieve = _retrieve(model, reader)
    for number, row in enumerate(rows):
        new = found.sequences[number, -count:].tolist()
        for place, token in enumerate(new):
            expected = reader.next_logits(row, new[:place], retrieve)
            assert found.logits[place][number].tolist() == pytest.approx(expected, abs=1e-5, rel=1e-5)
            assert sample or token == expected.index(max(expected))


@drawn
@given(st.data())
def test_beams(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw, ("no", "recent", "dense"))
    reader = _reader(model)
    rows, count = draw(st.lists(words, min_size=1, max_size=2)), draw(st.integers(1, 5))
    width = draw(st.integers(2, 3))
    batch, _ = _pad(draw, rows, rows)
    found = model.generate(
        batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=count, do_sample=False,
        num_beams=width, num_return_sequences=width, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    for number, row in enumerate(rows):
        expected = reader.beams(row, count, width, _retrieve(model, reader))
        assume(expected)
        ours = slice(number * width, (number + 1) * width)
        sequences = [tuple(new) for new in found.sequences[ours, -count:].tolist()]
        by_sequence = dict(zip(sequences, found.sequences_scores[ours].tolist(), strict=True))
        assert by_sequence == pytest.approx({tuple(new): known for known, new in expected}, abs=1e-4)


turn = st.lists(st.integers(3, 12), min_size=1, max_size=4).map(lambda ids: " ".join(f"w{i}" for i in ids))


@drawn
@given(st.data())
def test_dialogues(data: st.DataObject) -> None:
    draw = data.draw
    model = _drawn_model(draw, ("no", "recent", "bm25", "dense", "oracle"))
    config, reader = model.config, _reader(model)
    config.context_window_size *= draw(st.sampled_from((1, 8)))
    number = draw(st.integers(1, 3))
    query, answer = ([draw(turn) for _ in range(number)] for _ in range(2))
    history = [draw(st.lists(turn, max_size=4)) for _ in range(number)]
    longest = max(map(len, history))
    mask = [[draw(st.booleans()) for _ in range(longest)] for _ in range(number)]
    given_mask = torch.tensor(mask).view(number, longest) if draw(st.booleans()) else None
    with torch.no_grad():
        output = model.forward_with_history_retrieval(query, history, answer, given_mask)
    losses: list[float] = []
    for row in range(number):
        real = [i for i in range(len(history[row])) if given_mask is None or mask[row][i]]
        losses += _dialogue_losses(
            model, reader, query[row], history[row], answer[row], real, output.retrieved_indices[row, 0].tolist()
        )
    assert output.num_scored_tokens == len(losses)
    assert float(output.loss) == pytest.approx(sum(losses) / len(losses), abs=1e-5, rel=1e-5)


def _dialogue_losses(
    model: SelfRetrievalLM, reader: plain.Reader, query: str, turns: list, answer: str, real: list, retrieved: list
) -> list[float]:
    config = model.config

    def ids(text: str) -> list[int]:
        return [WORDS.index(word) for word in text.split()]

    def losses(chosen: list[str]) -> list[float]:
        text = "\n".join(chosen) + "\n" * bool(chosen) + f"Speaker 1: {query}\nSpeaker 2: {answer}"
        row = ids(text)[-config.context_window_size :]
        every = plain.logits_of(model.language_model, [*reader.bos, *row])[len(reader.bos) :]
        places = range(max(len(row) - len(ids(answer)), 1), len(row))
        return [plain.loss_of(every[place - 1], row[place]) for place in places]

    if config.retrieval_method == "no" or not real:
        assert set(retrieved) == {-1}
    else:
        kept = [turns[i] for i in real]
        before = config.instruction or {"query": "", "key": ""}
        scores = {
            "recent": lambda: [float(i) for i in range(len(kept))],
            "bm25": lambda: plain.bm25(ids(query), [ids(text) for text in kept], config.bm25_k1, config.bm25_b),
            "oracle": lambda: [-sum(losses([text])) for text in kept],
            "dense": lambda: [
                plain.dot(_counts((before["query"] + query).split()), _counts((before["key"] + text).split()))
                for text in kept
            ],
        }[config.retrieval_method]()
        check_choice([real.index(i) if i >= 0 else -1 for i in retrieved], scores, config.key_num)
    chosen = [i for i in retrieved if i >= 0]
    chosen = sorted(chosen) if config.order_method == "sequential" else chosen[::-1]
    return losses([turns[i] for i in chosen])
