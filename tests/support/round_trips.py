"""Models pushed to a loopback Hub and loaded from there in a process without Lookback: do they compute the same?"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.loopback_hub import LoopbackHub, environment
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.demo.fresh_process import run_without_lookback

# Run by the process without Lookback, and here for what to expect.
FINGERPRINT = '''
import torch
def fingerprint(model):
    """What a model of any family computes, as one tensor."""
    model = getattr(model, "base_model", model) if type(model).__name__.startswith("Peft") else model
    model = getattr(model, "model", model)
    ids = (torch.arange(3, 153) * 7 % 500 + 3).reshape(1, -1)
    texts = ["the copper lantern", "", "where did we leave the candle?"]
    with torch.no_grad():
        if model.config.model_type == "lookback_biencoder":
            return model.encode(texts)
        if model.config.model_type == "lookback_llara":
            assert model.tokenizer.convert_ids_to_tokens(model.config.predict_token_ids)[-1] == "<|predict_8|>"
            prompted = model.tokenizer(texts[0]).input_ids + list(model.config.predict_prompt_ids)
            return model(input_ids=torch.tensor([prompted]), output_hidden_states=True).hidden_states[-1]
        output = model(ids, labels=ids)
        turns = ["the copper lantern", "on the zebra island", "the hammer"]
        dialogue = model.forward_with_history_retrieval(["where is it?"], [turns], ["next to the candle"])
        return torch.stack([output.loss, output.retrieved_indices.float().sum(), dialogue.loss])
'''
LOADS = """
import json, os
import peft, transformers
wanted = torch.load("wanted.pt")
for case in json.load(open("cases.json")):
    keywords = dict(case["keywords"], trust_remote_code=True)
    try:
        model = getattr(peft if "Peft" in case["auto"] else transformers, case["auto"])
        model = model.from_pretrained(case["repo"], **keywords)
        if case["adapter"]:
            model.load_adapter(case["adapter"])
        found = fingerprint(model.eval())
        error = (found - wanted[case["wanted"]]).abs().max().item()
        assert error < 1e-5, f"off by {error}"
        module = type(getattr(getattr(model, "base_model", model), "model", model)).__module__
        assert module.startswith("transformers_modules") or "Peft" not in case["auto"], module
        if "Peft" not in case["auto"] and not case["adapter"]:
            where = {name: value for name, value in keywords.items() if name in ("revision", "token")}
            config = transformers.AutoConfig.from_pretrained(case["repo"], trust_remote_code=True, **where)
            assert type(config).__module__.startswith("transformers_modules") and config.model_type == case["family"]
            tokenizer = transformers.AutoTokenizer.from_pretrained(case["repo"], **where)
            assert tokenizer("lantern").input_ids == model.tokenizer("lantern").input_ids
        print("EQUAL")
    except Exception as problem:
        import traceback
        traceback.print_exc(file=sys.stdout)
        print("WRONG", case, problem)
for refusal in json.load(open("refusals.json")):
    try:
        getattr(transformers, refusal["auto"]).from_pretrained(refusal["repo"], **refusal["keywords"])
        print("WRONG", "loaded", refusal)
    except Exception as problem:
        good = refusal["says"] in str(problem)
        print("REFUSED" if good else f"WRONG {refusal} {problem!r}")
"""


@dataclass
class Case:
    """A repo to load with an auto class, and whose fingerprint it must have."""

    repo: str
    auto: str
    wanted: str
    family: str
    keywords: dict[str, Any] = field(default_factory=dict)
    adapter: str = ""


def fingerprint(model: Any) -> torch.Tensor:
    """What the model computes; the process without Lookback computes it by the same code."""
    names: dict[str, Any] = {}
    exec(FINGERPRINT, names)
    return names["fingerprint"](model.eval())


def load_all(
    hub: LoopbackHub, folder: Path, cases: list[Case], wanted: dict[str, torch.Tensor], refusals: list[dict[str, Any]]
) -> None:
    """Load every case in one process without Lookback; AssertionError with its output where something is not equal."""
    folder.mkdir()
    torch.save(wanted, folder / "wanted.pt")
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    (folder / "refusals.json").write_text(json.dumps(refusals))
    variables = environment(hub, folder / "hf_home", token="hf_read")
    printed = run_without_lookback(FINGERPRINT + LOADS, folder=folder, environment=variables)
    assert printed.split().count("EQUAL") == len(cases) and "WRONG" not in printed, printed
    assert printed.split().count("REFUSED") == len(refusals), printed


def build(family: str, backbone: str = "llama", seed: int = 0, **config: Any) -> Any:
    """A model of a family; a self-retrieval LM has a retriever with a tokenizer of its own."""
    tokenizer = tiny_tokenizer()
    if family == "lookback_biencoder":
        return BiEncoderModel.from_backbone(
            tiny_backbone(backbone, seed, lm_head=False, **config), tokenizer, pooling="mean_last_k", pooling_k=2,
            prompts={"default": {"query": "ask: ", "passage": "text: "}},
        )  # fmt: skip
    if family == "lookback_llara":
        return LlaraForPreTraining.from_backbone(tiny_backbone(backbone, seed, **config), tokenizer)
    retriever = build("lookback_biencoder", seed=seed + 1)
    retriever.tokenizer.add_tokens(["zebra"])
    retriever.resize_token_embeddings(len(retriever.tokenizer) + 7)
    return SelfRetrievalLM.from_components(
        tiny_backbone(backbone, seed, **config), tokenizer, retriever, context_window_size=64, chunk_size=16,
        key_num=2, target_size=32,
    )  # fmt: skip
