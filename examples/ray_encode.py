"""Embeddings of a corpus by Ray (`pip install "ray[data]"`), for those who have a cluster, or their data in one.

    python examples/ray_encode.py --model runs/finetune --data corpus.jsonl --output embeddings --workers 2

Ray reads the rows as a stream, hands them to workers that each hold the model, gives those of a dead worker to another
one, and writes a folder of .parquet files with the columns of the rows and `embedding`. Without a cluster it runs on
this machine, which then needs a core more than there are workers, to read. `lookback encode --num_shards` needs no
cluster: it does the same over a folder that all machines see.
"""

import argparse
from typing import Any

import ray

from trainers.models.load import load_biencoder


class Embed:
    """One worker: the model, on its GPU where it has one."""

    def __init__(self, model: str, role: str, field: str):
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.model: Any = load_biencoder(model).to(device)
        self.role, self.field = role, field

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = [str(text) for text in batch[self.field]]
        found = self.model.encode(texts, role=self.role, batch_size=32, show_progress=False)
        return {**batch, "embedding": found.cpu().numpy()}


def main(argv: list[str] | None = None) -> None:
    """Embeds, and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--model", "--data", "--output"):
        parser.add_argument(name, required=True)
    parser.add_argument("--role", default="passage")
    parser.add_argument("--text_field", default="text")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus_per_worker", type=float, default=0)
    given = parser.parse_args(argv)
    read = ray.data.read_parquet if given.data.endswith(".parquet") else ray.data.read_json
    read(given.data).map_batches(
        Embed,
        fn_constructor_args=(given.model, given.role, given.text_field),
        batch_size=2048,  # 64 batches of the model, sorted by length
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        num_gpus=given.gpus_per_worker or None,
    ).write_parquet(given.output)


if __name__ == "__main__":
    main()
