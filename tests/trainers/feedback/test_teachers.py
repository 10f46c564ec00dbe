"""Cross-encoders and bi-encoders as teachers: their own scores, by the command, resumed, and what is refused."""

import json
import sys
from pathlib import Path

import pytest

from modeling_biencoder import BiEncoderModel
from tests.support.feedback import MANY, ROWS, candidates, save_backbone
from tests.support.files import read_rows, write_rows
from tests.support.pretrained import minilm
from tests.support.teachers import save_cross_encoder, save_llm_reranker
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.biencoder.rows import load_biencoder_rows
from trainers.commands.score import main
from trainers.jobs.parts import PartFiles

MIXED = [*ROWS.values(), {"query": "no answers here", "pos": ["one"], "neg": ["two", "and three " * 9]}]


def score(folder: Path, teacher: str, *extra: str, rows: list[dict] = MIXED, name: str = "out.jsonl") -> list[dict]:
    data = write_rows(folder / "rows.jsonl", rows)
    main(["--teacher", teacher, "--data", data, "--output", str(folder / name), "--batch_size", "2", *extra])
    return read_rows(folder / name)


def save_biencoder(folder: Path, **settings) -> str:
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), **settings)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.cases(2)
@pytest.mark.parametrize("form", ["transformers", "sentence-transformers"])
@pytest.mark.parametrize("family", ["bert", "llama", "qwen"])
def test_a_cross_encoder_s_scores_are_its_predictions(tmp_path, family, form):
    st = pytest.importorskip("sentence_transformers")
    teacher = save_cross_encoder(tmp_path / "teacher", family)
    model = st.CrossEncoder(teacher, device="cpu")
    if form == "sentence-transformers":
        teacher = str(tmp_path / "saved")
        model.save_pretrained(teacher)
    rows = score(tmp_path, teacher)
    assert [{k: v for k, v in row.items() if k != "teacher_scores"} for row in rows] == MIXED
    for row in rows:
        alone = [float(model.predict([(row["query"], text)])[0]) for text in candidates(row)]
        assert row["teacher_scores"] == pytest.approx(alone, abs=1e-6)
        assert max(alone) - min(alone) > 1e-4
    assert len(load_biencoder_rows(tmp_path / "out.jsonl", group_size=2)) == len(MIXED)


def test_a_causal_lm_in_cross_encoder_s_form_is_one(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    teacher = save_llm_reranker(tmp_path)
    model = st.CrossEncoder(teacher, device="cpu")
    for row in score(tmp_path, teacher):
        alone = [float(model.predict([(row["query"], text)])[0]) for text in candidates(row)]
        assert row["teacher_scores"] == pytest.approx(alone, abs=1e-6)


@pytest.mark.cases(1)
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_a_biencoder_s_scores_are_its_similarities(tmp_path, similarity):
    prompts = {"default": {"query": "find: ", "passage": "text: "}, "qa": {"query": "answer: ", "passage": ""}}
    teacher = save_biencoder(tmp_path / "teacher", similarity=similarity, normalize=False, prompts=prompts)
    model = BiEncoderModel.from_pretrained(teacher).eval()
    for row in score(tmp_path, teacher, rows=[{**ROWS["qa"], "task": "qa"}, *MIXED]):
        task = "qa" if "task" in row else None
        query, texts = model.encode([row["query"]], "query", task), model.encode(candidates(row), "passage", task)
        assert row["teacher_scores"] == pytest.approx(model.similarity(query, texts)[0].tolist(), abs=2e-5)


@pytest.mark.slow
def test_a_sentence_transformers_model_is_a_biencoder(tmp_path):
    st = pytest.importorskip("sentence_transformers")
    model = st.SentenceTransformer(minilm(), device="cpu")
    for row in score(tmp_path, minilm()):
        scores = model.similarity(model.encode([row["query"]]), model.encode(candidates(row)))[0]
        assert row["teacher_scores"] == pytest.approx(scores.tolist(), abs=2e-6)


def teachers(folder: Path) -> dict[str, str]:
    pytest.importorskip("sentence_transformers")
    return {"cross": save_cross_encoder(folder / "cross"), "bi": save_biencoder(folder / "bi")}


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", ["cross", "bi"])
def test_an_interrupted_run_goes_on_to_the_same_file(tmp_path, monkeypatch, capsys, kind):
    teacher = teachers(tmp_path)[kind]
    whole = score(tmp_path, teacher, rows=MANY, name="whole.jsonl")
    append, done = PartFiles.append, []

    def append_or_die(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(append(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(PartFiles, "append", append_or_die)
        with pytest.raises(KeyboardInterrupt):
            score(tmp_path, teacher, rows=MANY)
    with pytest.raises(ValueError, match=r"batch_size was 2 and is 3.*--overwrite"):
        score(tmp_path, teacher, "--batch_size", "3", rows=MANY)
    assert score(tmp_path, teacher, rows=MANY) == whole
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert "2 of 4 groups by an earlier run" in capsys.readouterr().out


def test_another_teacher_in_the_same_folder_does_not_go_on(tmp_path, monkeypatch):
    teacher = teachers(tmp_path)["cross"]
    with monkeypatch.context() as patch:
        patch.setattr(PartFiles, "join", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(tmp_path, teacher)
    save_cross_encoder(Path(teacher), seed=1)
    with pytest.raises(ValueError, match="sha256 of the weights was"):
        score(tmp_path, teacher)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    "extra, message",
    [
        (["--task", "document"], "--task='document' has no meaning with --teacher="),
        (["--task", "qa"], "--task='qa' has no meaning"),
        (["--model", "gpt2"], "--model='gpt2' has no meaning"),
        (["--chunk_size", "64"], "--chunk_size=64 has no meaning"),
        (["--target", "query"], "--target='query' has no meaning"),
        (["--score", "sum"], "--score='sum' has no meaning"),
        (["--gguf_file", "x.gguf"], "gguf"),
    ],
)
def test_options_of_a_language_model_are_refused(tmp_path, extra, message):
    with pytest.raises(ValueError, match=message):
        score(tmp_path, teachers(tmp_path)["cross"], *extra)
    assert not (tmp_path / "out.jsonl.parts").exists()


def test_other_models_are_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=r"is a LlamaForCausalLM and must be a cross-encoder.*or give a causal LM as"):
        score(tmp_path, save_backbone(tmp_path / "lm"))
    with pytest.raises(ValueError, match="has 3 labels and must have one"):
        score(tmp_path, save_cross_encoder(tmp_path / "classes", num_labels=3))
    with pytest.raises((OSError, ValueError), match="nowhere"):
        score(tmp_path, str(tmp_path / "nowhere"))


def test_without_a_pad_token_only_one_pair_at_once(tmp_path):
    teacher = teachers(tmp_path)["cross"]
    settings = Path(teacher) / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "pad_token": None}))
    with pytest.raises(ValueError, match=r"has no pad token.*--batch_size 1"):
        score(tmp_path, teacher)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    teacher = save_cross_encoder(tmp_path / "teacher")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"needs sentence-transformers.*pip install sentence-transformers"):
        score(tmp_path, teacher)


def test_rows_without_candidates_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"Row 1 .*no candidates|line 2.*no candidates"):
        score(tmp_path, teachers(tmp_path)["cross"], rows=[MIXED[0], {"query": "q"}])
