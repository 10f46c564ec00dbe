"""The loading code of the cards of adapters gives the model that was trained, without Lookback where it says so."""

import re

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig

from tests.support import quick_first
from tests.support.adapted import outputs, plain_backbone, trainer
from trainers.demo.fresh_process import run_without_lookback

FAMILIES = ("biencoder", "llara", "srlm")
KINDS = {"lora": LoraConfig(r=4), "dora": LoraConfig(r=4, use_dora=True)}
# Behind the code of each card: `model` is as that has loaded it.
_COMPARE = """
inner = model.get_base_model() if type(model).__name__.startswith("Peft") else model
states = [inner.eval()(ids, labels=ids).loss if hasattr(inner, "language_model") else inner.backbone(ids)[0]]
torch.testing.assert_close(states[0], torch.load(expected), rtol=0, atol=1e-5)
print("EQUAL")
"""


def code_of(folder):
    code, *_ = re.findall(r"```python\n(.*?)```", ModelCard.load(folder / "README.md").text, re.DOTALL)
    return code.replace("path/to/this/repo", str(folder))


def computed(model):
    ids = torch.arange(3, 83)[None]
    with torch.no_grad():
        inner = model.eval()
        return inner(ids, labels=ids).loss if hasattr(inner, "language_model") else inner.backbone(ids)[0]


def adapted(family, folder, peft_config, complete):
    folder.mkdir()
    plain_backbone(family, folder)
    source = str(folder / "lm")
    if complete:
        trainer(family, folder, source).model.save_pretrained(folder / "base")
        source = str(folder / "base")
    made = trainer(family, folder, source, peft_config=peft_config)
    made.train()
    made.save_model()
    return made.model


@pytest.mark.slow
def test_on_a_complete_base_without_lookback(tmp_path):
    """All in one process, as starting it takes the most time."""
    script = ["import torch", "torch.set_grad_enabled(False)", "ids = torch.arange(3, 83)[None]"]
    for family in FAMILIES:
        for kind, config in KINDS.items():
            folder = tmp_path / f"{family}-{kind}"
            torch.save(computed(adapted(family, folder, config, complete=True)), folder / "expected.pt")
            code = code_of(folder / "run")
            assert ("PeftModel" in code) == (kind == "dora")
            script.append(code.replace("path/to/its/base", str(folder / "base")))
            script.append(f"expected = {str(folder / 'expected.pt')!r}{_COMPARE}")
    printed = run_without_lookback("\n".join(script), folder=tmp_path)
    assert printed.count("EQUAL") == len(FAMILIES) * len(KINDS), printed


@pytest.mark.cases(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", quick_first(FAMILIES))
def test_on_a_plain_backbone_with_lookback(tmp_path, family, kind):
    model = adapted(family, tmp_path / "here", KINDS[kind], complete=False)
    code = code_of(tmp_path / "here" / "run").replace("path/to/its/base", str(tmp_path / "here" / "lm"))
    names = {}
    exec(code, names)
    torch.testing.assert_close(outputs(names["model"]), outputs(model), rtol=0, atol=1e-5)
