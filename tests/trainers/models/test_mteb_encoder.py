"""A bi-encoder in mteb's own runner: what it says of sentence-transformers' export of the same model, to the digit."""

import sys

import pytest
import torch

from modeling_biencoder import BiEncoderModel, instruction_prompt
from tests.support import quick_first
from tests.support.loopback_hub.fixtures import commit
from tests.support.pretrained import minilm
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import MtebEncoder

SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
pytestmark = pytest.mark.filterwarnings("ignore")  # mteb's own

SUFFIXED = {"query": '"', "query_suffix": '", predict', "passage": '"', "passage_suffix": '", summarize'}
SETTINGS = {
    "bert, bare": ("bert", {"pooling": "cls"}),
    "llama, prompts": ("llama", {"prompts": {"default": {"query": "q: ", "passage": "p: "}}}),
    "llama, of LLaRA": ("llama", {"pooling": "mean_last_k", "pooling_k": 2, "prompts": {"default": SUFFIXED}}),
    "bert, by type": (
        "bert",
        {
            "pooling": "mean",
            "prompts": {"Retrieval": {"query": "ask: ", "passage": "told: "}, "STS": {"query": "alike: "}},
        },
    ),
    "qwen, instructed": ("qwen", {"append_eos": True, "prompts": {"Clustering": instruction_prompt("topic?")}}),
    "gpt2, dot": ("gpt2", {"normalize": False, "bidirectional": False, "prompts": {"default": {"query": "q: "}}}),
}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    """Imported where they are run and not by every worker that collects these tests: it takes seconds."""
    global mteb, local
    mteb, local = pytest.importorskip("mteb"), pytest.importorskip("tests.support.mteb")


@pytest.fixture(autouse=True)
def own_code(fresh_code):
    """See `fresh_code`."""


def model_of(family: str, seed: int = 0, **config) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(family, seed, lm_head=False), tiny_tokenizer(), **config)


def assert_equal(ours: dict, theirs: dict) -> None:
    """All numbers that mteb says of each task."""
    assert ours.keys() == theirs.keys() and len(ours) > 1
    for name, scores in ours.items():
        numbers = {key for key, value in scores.items() if isinstance(value, float)}
        assert scores.keys() == theirs[name].keys() and len(numbers) > 2
        for key in numbers:
            assert scores[key] == pytest.approx(theirs[name][key], abs=1e-6, nan_ok=True), (name, key)


@pytest.mark.parametrize("name", quick_first(SETTINGS))
def test_scores_are_those_of_the_export_in_mteb_s_own_wrapper(name, tmp_path):
    family, config = SETTINGS[name]
    model = model_of(family, **config)
    model.export_sentence_transformers(tmp_path / "export")
    exported = SentenceTransformer(str(tmp_path / "export"), device="cpu", trust_remote_code=True)
    ours = local.scores(MtebEncoder(model), encode_kwargs={"batch_size": 7})
    assert_equal(ours, local.scores(exported))


@pytest.mark.slow
def test_narrow_embeddings_are_those_of_the_export(tmp_path):
    model = model_of("llama", embedding_dims=[8], prompts={"default": {"query": "q: "}})
    model.export_sentence_transformers(tmp_path, truncate_dim=8)
    exported = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    encoder = MtebEncoder(model, truncate_dim=8)
    assert_equal(local.scores(encoder), local.scores(exported))
    assert encoder.mteb_model_meta.embed_dim == 8 and encoder.mteb_model_meta.experiment_name == "truncate_dim_8"
    narrowed = MtebEncoder(model).narrowed(8)
    assert narrowed.mteb_model_meta == encoder.mteb_model_meta


def test_a_text_has_the_prompt_of_its_task_then_of_its_type_then_of_its_role():
    prompts = {"default": {"query": "q: ", "passage": "p: "}, "STS": {"query": "s: "}, "STS12": {"query": "t: "}}
    encoder = MtebEncoder(model_of("bert", prompts=prompts))
    assert encoder.prompt_of("STS12", "STS") == ("query", "STS12")
    assert encoder.prompt_of("STS13", "STS") == ("query", "STS")
    assert encoder.prompt_of("Banking77Classification", "Classification") == (None, None)
    assert encoder.prompt_of("SciFact", "Retrieval", "query") == ("query", None)
    assert encoder.prompt_of("SciFact", "Retrieval", "document") == ("passage", None)
    suffixed = MtebEncoder(model_of("llama", prompts={"default": SUFFIXED}))
    assert suffixed.prompt_of("STS13", "STS") == ("passage", None)
    always = MtebEncoder(encoder.model, task="STS")
    assert always.prompt_of("SciFact", "Retrieval", "document") == ("passage", "STS")
    assert always.prompt_of("Banking77Classification", "Classification") == ("query", "STS")
    one, other = encoder.model.encode(["a lantern"], role=None), model_of("bert").encode(["a lantern"])
    torch.testing.assert_close(one, other)
    assert not torch.equal(one, encoder.model.encode(["a lantern"]))


def test_similarity_is_the_model_s():
    a, b = torch.randn(3, 4), torch.randn(2, 4)
    for normalize in (True, False):
        encoder = MtebEncoder(model_of("bert", normalize=normalize))
        expected = encoder.model.similarity(a, b)
        torch.testing.assert_close(encoder.similarity(a.numpy(), b), expected)
        torch.testing.assert_close(encoder.similarity(a.numpy()[0], b), expected[:1])
        torch.testing.assert_close(encoder.similarity_pairwise(a[:2].numpy(), b), expected[:2].diagonal())


def test_results_are_filed_under_what_the_model_is(tmp_path):
    model = model_of("bert")
    model.save_pretrained(tmp_path / "mine")
    about = MtebEncoder(tmp_path / "mine").mteb_model_meta
    assert (about.name, len(about.revision)) == ("local/mine", 40)
    assert about.similarity_fn_name.value == "cosine" and about.max_tokens == 512 and about.embed_dim == 32
    assert MtebEncoder(str(tmp_path / "mine"), task=None).mteb_model_meta == about
    assert MtebEncoder(model, name="me/it", revision="7").mteb_model_meta.revision == "7"
    revisions = {about.revision}
    for change in ({"max_length": 100}, {"prompts": {"default": {"query": "q: "}}}, {"pooling": "mean"}):
        changed = BiEncoderModel.from_pretrained(tmp_path / "mine", **change)
        revisions.add(MtebEncoder(changed).mteb_model_meta.revision)
    with torch.no_grad():
        next(model.parameters())[0] += 1
    revisions.add(MtebEncoder(model).mteb_model_meta.revision)
    assert len(revisions) == 5


def test_a_hub_id_is_filed_under_its_commit_and_loaded_by_mteb(hub, tmp_path):
    model = model_of("bert", prompts={"default": {"query": "q: "}})
    model.save_pretrained(tmp_path / "bi")
    oid = commit(hub, "user/bi", tmp_path / "bi")
    about = MtebEncoder("user/bi").mteb_model_meta
    assert (about.name, about.revision, about.experiment_kwargs) == ("user/bi", oid, None)
    again = about.load_model(device="cpu")
    assert isinstance(again, MtebEncoder) and again.mteb_model_meta.revision == oid
    torch.testing.assert_close(again.model.encode(["a lantern"]), model.encode(["a lantern"]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"task": "facts"}, "task='facts' has no prompt: the tasks are .*did you mean 'fact'"),
        ({"truncate_dim": 64}, "truncate_dim=64 is wider"),
        ({"name": "mine"}, "name='mine' must be of the form owner/name"),
        ({"pooling": "mean"}, r"\['pooling'\] are for loading"),
    ],
)
def test_what_is_wrong_is_named(keywords, message):
    model = model_of("bert", prompts={"fact": {"query": "f: "}})
    with pytest.raises(ValueError, match=message):
        MtebEncoder(model, **keywords)
    with pytest.raises(ValueError, match=r"encode_kwargs has \['precision'\]"):
        local.scores(MtebEncoder(model), local.TASKS[1:2], encode_kwargs={"precision": "int8"})


@pytest.mark.slow
def test_every_kind_of_mteb_s_text_tasks_runs():
    found = mteb.mock_run(MtebEncoder(model_of("bert")))
    ran = {name: result for name, result in found.task_results.items() if result is not None}
    assert len(ran) > 20 and found.all_passed


def test_without_mteb_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(ImportError, match=r"mteb is not installed: pip install mteb\."):
        MtebEncoder(model_of("bert")).mteb_model_meta  # noqa: B018


@pytest.mark.slow
def test_minilm_scores_as_in_sentence_transformers():
    folder = minilm()
    ours, theirs = (
        local.scores(encoder, local.TASKS[:2]) for encoder in (MtebEncoder(folder), SentenceTransformer(folder))
    )
    assert_equal(ours, theirs)
    assert ours["LocalRetrieval"]["main_score"] > 0.5
