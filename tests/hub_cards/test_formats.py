"""Saved repos of each released format load and compute what they did, and code of different repos does not mix."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from modeling_biencoder import BiEncoderConfig, BiEncoderModel
from modeling_biencoder.format_biencoder import FORMAT
from modeling_llara import LlaraConfig, LlaraForPreTraining, build_row
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM

# Tiny random models; format_1: saved by Lookback 0.1.0; format_1_flat: by the last version whose folders were flat.
from tests.support import FIXTURES
from tests.support.families import build
from tests.support.loopback_hub import environment
from tests.support.loopback_hub.fixtures import commit
from trainers.demo.fresh_process import run_without_lookback

FAMILIES = {"biencoder": BiEncoderModel, "llara": LlaraForPreTraining, "srlm": SelfRetrievalLM}
CONFIGS = (BiEncoderConfig, LlaraConfig, SelfRetrievalConfig)


def load(folder: Path):
    return (AutoModelForCausalLM if folder.name == "srlm" else AutoModel).from_pretrained(folder)


@torch.no_grad()
def compute(family: str, model, expected: dict):
    if family == "biencoder":
        return model.encode([expected["text"]], role="query")[0]
    if family == "llara":
        row = build_row(model.config, model.tokenizer(expected["text"])["input_ids"])
        return model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
    ids = model.tokenizer(expected["document"], return_tensors="pt")["input_ids"]
    return model(ids, labels=ids).loss


@pytest.mark.cases(2)
@pytest.mark.parametrize("release", sorted(path.name for path in FIXTURES.glob("format_*")))
@pytest.mark.parametrize("family", FAMILIES)
def test_a_repo_of_each_released_format_loads_and_computes_the_same(release, family, tmp_path):
    expected = json.loads((FIXTURES / release / "expected.json").read_text())
    model = load(FIXTURES / release / family)
    assert type(model) is FAMILIES[family]
    torch.testing.assert_close(compute(family, model, expected), torch.tensor(expected[family]), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / family)
    saved = json.loads((tmp_path / family / "config.json").read_text())
    assert saved["lookback_format"] == FORMAT
    again = compute(family, load(tmp_path / family), expected)
    torch.testing.assert_close(again, torch.tensor(expected[family]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_newer_format_asks_for_a_newer_lookback(config_class, tmp_path):
    config_class().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["lookback_format"] == FORMAT
    # A newer repo may have settings that this version does not know: the format is what is said.
    (tmp_path / "config.json").write_text(json.dumps({**settings, "lookback_format": FORMAT + 1, "unheard_of": 3}))
    with pytest.raises(ValueError, match=rf"format {FORMAT + 1} .*up to {FORMAT}: upgrade Lookback"):
        AutoConfig.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**settings, "lookback_format": "new"}))
    with pytest.raises(ValueError, match="lookback_format is 'new'"):
        AutoConfig.from_pretrained(tmp_path)


OTHER_CODE = """
from transformers import AutoModel, AutoModelForCausalLM

def load(source, revision="main"):
    auto_class = AutoModelForCausalLM if "srlm" in source else AutoModel
    return auto_class.from_pretrained(source, revision=revision, trust_remote_code=True)

def check(family, *models):  # the first, the other, and the first once more, after the other's code came in
    assert len({type(model).__name__ for model in models}) == 1
    assert type(models[0].config) is not type(models[1].config)
    assert [getattr(type(model), "whose", None) for model in models] == [None, family, None]

root, before = sys.argv[1:]
for family in ("biencoder", "llara", "srlm"):
    folder = f"{root}/{family}"
    check(family, load(folder), load(f"{folder}-other"), load(folder))
check("biencoder", *(load("user/biencoder", revision) for revision in (before, "main", before)))
print("OWN CODE")
"""


def with_other_code(folder: Path, into: Path) -> Path:
    """A copy of a saved repo whose model class has an attribute more."""
    shutil.copytree(folder, into)
    code = into / f"modeling_{folder.name}.py"
    base = {"biencoder": "(CompleteRepository)", "llara": "(CompleteRepository, Gen", "srlm": "(DialogueMixin"}
    before, found, after = code.read_text().partition(f"{base[folder.name]}")
    assert found
    line, end, rest = after.partition(":\n")
    code.write_text(f"{before}{found}{line}{end}    whose = {folder.name!r}\n\n{rest}")
    return into


@pytest.mark.slow
def test_repos_with_different_code_run_their_own_in_one_process(tmp_path, hub):
    for family in FAMILIES:
        shutil.copytree(FIXTURES / "format_1" / family, tmp_path / family)
        with_other_code(FIXTURES / "format_1" / family, tmp_path / f"{family}-other")
    before = commit(hub, "user/biencoder", tmp_path / "biencoder")
    commit(hub, "user/biencoder", tmp_path / "biencoder-other")
    home = environment(hub, tmp_path / "home")
    printed = run_without_lookback(OTHER_CODE, tmp_path, before, folder=tmp_path, environment=home)
    assert printed.strip().endswith("OWN CODE")


def test_with_lookback_its_own_code_runs_whatever_the_repo_holds(tmp_path):
    folder = with_other_code(FIXTURES / "format_1" / "biencoder", tmp_path / "biencoder")
    (folder / "pooling_biencoder.py").write_text("raise SystemExit('the code of the repo ran')\n")
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(model) is BiEncoderModel and not hasattr(model, "whose")


def test_weights_are_read_from_safetensors_alone(tmp_path):
    folder = tmp_path / "biencoder"
    build("biencoder").save_pretrained(folder)
    with pytest.raises(ValueError, match="use_safetensors=False would read a pickle"):
        AutoModel.from_pretrained(folder, use_safetensors=False)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even read")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(folder)
    with pytest.raises(OSError, match=r"model\.safetensors"):  # as the retriever of a self-retrieval LM, too
        SelfRetrievalLM.from_components(build("llara").backbone, build("llara").tokenizer, str(folder))


def test_a_pickled_adapter_is_refused(tmp_path):
    (tmp_path / "adapter_model.bin").write_bytes(b"not even read")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors; another file of weights is a pickle"):
        build("biencoder").load_adapter(str(tmp_path))
