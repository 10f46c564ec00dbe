"""The last step: the repos are saved, loaded in a fresh process without Lookback, and give the same figures."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .fresh_process import run_without_lookback

TOLERANCE = 1e-5


def figure(name: str, model: Any, inputs: dict[str, Any]) -> float:
    """What is compared: a loss, or for a bi-encoder the sum over its embeddings. The other process runs it as well."""
    import torch

    with torch.no_grad():
        if name == "llara":
            return model(**{name: torch.tensor([ids]) for name, ids in inputs["row"].items()}).loss.item()
        if name == "biencoder":
            return model.encode(inputs["texts"], role="query").abs().sum().item()
        document = torch.tensor([inputs["document"]])
        labels = document.clone()
        labels[:, : -inputs["scored"]] = -100
        return model(document, labels=labels).loss.item()


LOADER = f"""
import json
from pathlib import Path
from typing import Any
from transformers import AutoModel, AutoModelForCausalLM
root, inputs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
{inspect.getsource(figure)}
figures = {{}}
for name in inputs["names"]:
    kind = AutoModelForCausalLM if name == "srlm" else AutoModel
    model = kind.from_pretrained(root / name, trust_remote_code=True, local_files_only=True).eval()
    figures[name] = figure(name, model, inputs)
print("FIGURES" + json.dumps(figures))
"""


def save_repos(models: Mapping[str, PreTrainedModel], output_dir: Path) -> None:
    """One complete repo for each name."""
    for name, model in models.items():
        model.save_pretrained(output_dir / name)


def check_reload(
    models: Mapping[str, PreTrainedModel], document: torch.Tensor, output_dir: Path, scored: int, **inputs: Any
) -> dict[str, tuple[float, float]]:
    """(figure here, figure in the fresh process) of each repo; raises ValueError where they differ.

    Args:
        models: by the names of their folders in `output_dir`.
        document: (length,) token ids, of which the self-retrieval LM scores the last `scored`.
        inputs: `row` of token ids for LLaRA, `texts` for the bi-encoder.
    """
    given = {"names": [*models], "document": document.tolist(), "scored": scored, **inputs}
    file = output_dir / "reload_inputs.json"
    file.write_text(json.dumps(given))
    here = {name: figure(name, model.eval(), given) for name, model in models.items()}
    printed = run_without_lookback(LOADER, output_dir.resolve(), file.resolve(), folder=output_dir.resolve())
    there = json.loads(printed.rsplit("FIGURES", 1)[1])
    for name, value in here.items():
        if abs(value - there[name]) > TOLERANCE * max(1.0, abs(value)):
            raise ValueError(f"the reloaded {name} gives {there[name]}, the one in memory {value}: the repo is wrong.")
    return {name: (value, there[name]) for name, value in here.items()}
