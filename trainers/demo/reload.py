"""Step 5: the three repos are saved, loaded in a fresh process without Lookback, and give the same figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining, build_row
from modeling_srlm import SelfRetrievalLM

from ..embedded.corpus import CodePair
from .fresh_process import run_without_lookback

TOLERANCE = 1e-5
LOADER = """
import json, torch
from pathlib import Path
from transformers import AutoModel, AutoModelForCausalLM
root, inputs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
load = dict(trust_remote_code=True, local_files_only=True)
llara = AutoModel.from_pretrained(root / "llara", **load).eval()
biencoder = AutoModel.from_pretrained(root / "biencoder", **load).eval()
srlm = AutoModelForCausalLM.from_pretrained(root / "srlm", **load).eval()
with torch.no_grad():
    row = {name: torch.tensor([ids]) for name, ids in inputs["row"].items()}
    document = torch.tensor([inputs["document"]])
    figures = {
        "llara": llara(**row).loss.item(),
        "biencoder": biencoder.encode(inputs["texts"], role="query").abs().sum().item(),
        "srlm": srlm(document, labels=document).loss.item(),
    }
print("FIGURES" + json.dumps(figures))
"""


def save_repos(models: dict[str, PreTrainedModel], output_dir: Path) -> None:
    """One complete repo for each name."""
    for name, model in models.items():
        model.save_pretrained(output_dir / name)


@torch.no_grad()
def check_reload(
    llara: LlaraForPreTraining,
    biencoder: BiEncoderModel,
    srlm: SelfRetrievalLM,
    pairs: Sequence[CodePair],
    document: torch.Tensor,
    output_dir: Path,
) -> dict[str, tuple[float, float]]:
    """(figure here, figure in the fresh process) of each repo; raises ValueError where they differ."""
    row = build_row(llara.config, llara.tokenizer(pairs[0].passage, add_special_tokens=False)["input_ids"][:64])
    inputs: dict[str, Any] = {"row": row, "texts": [pair.query for pair in pairs[:8]], "document": document.tolist()}
    file = output_dir / "reload_inputs.json"
    file.write_text(json.dumps(inputs))
    tensors = {name: torch.tensor([ids]) for name, ids in row.items()}
    here = {
        "llara": llara.eval()(**tensors).loss.item(),
        "biencoder": biencoder.encode(inputs["texts"], role="query").abs().sum().item(),
        "srlm": srlm.eval()(document[None], labels=document[None]).loss.item(),
    }
    printed = run_without_lookback(LOADER, output_dir.resolve(), file.resolve(), folder=output_dir.resolve())
    there = json.loads(printed.rsplit("FIGURES", 1)[1])
    for name, value in here.items():
        if abs(value - there[name]) > TOLERANCE * max(1.0, abs(value)):
            raise ValueError(f"the reloaded {name} gives {there[name]}, the one in memory {value}: the repo is wrong.")
    return {name: (value, there[name]) for name, value in here.items()}
