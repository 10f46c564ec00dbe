"""Embeddings of a corpus by Ray (`pip install "ray[data]"`), for those who have a cluster, or their data in one.

    python examples/ray_encode.py --model runs/finetune --data corpus.jsonl --output embeddings --workers 2

Ray reads the rows of a .jsonl or .parquet file as a stream, hands them to workers that each hold the model, gives
those of a dead worker to another one, and writes a folder of .parquet files with the columns `id`, `text` and
`embedding`.
Text and id of a row are those of `lookback encode`, but that each row needs an id: in a stream it has no number.
Without a cluster it runs on this machine, which then needs a core more than there are workers, to read. `lookback
encode --num_shards` needs no cluster: it does the same over a folder that all machines see.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import ray

from trainers.data.readers import without_surrogates
from trainers.data.texts import row_id, row_text
from trainers.models.load import load_biencoder

LINE = "line of the file"


class Embed:
    """One worker: the model, on its GPU where it has one."""

    def __init__(self, model: str, role: str, field: str):
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.model: Any = load_biencoder(model).to(device)
        self.role, self.field = role, field

    def __call__(self, batch: Any) -> dict[str, Any]:
        rows = batch.to_pylist()
        if batch.column_names == [LINE]:
            rows = [without_surrogates(json.loads(row[LINE])) for row in rows if row[LINE].strip()]
        texts = [row_text(row, self.field, named(row)) for row in rows]
        found = self.model.encode(texts, role=self.role, batch_size=32, show_progress=False)
        return {"id": [id_of(row) for row in rows], "text": texts, "embedding": found.cpu().numpy()}


def id_of(row: dict[str, Any]) -> str:
    """`_id` or `id` of a row; ValueError where it has none."""
    found = row_id(row, lambda: named(row))
    if found is None:
        raise ValueError(f"{named(row)} has no id: give each row an `_id`.")
    return found


def named(row: dict[str, Any]) -> str:
    """A row in an error."""
    return f"The row {str(row)[:200]}"


def read(data: str) -> Any:
    """The lines of a .jsonl file, of whose texts Ray would make times, or the rows of a .parquet file."""
    if (suffix := Path(data).suffix) not in (".jsonl", ".parquet"):
        raise ValueError(f"--data={data!r} must end in .jsonl or .parquet: write it as one, or use `lookback encode`.")
    if suffix == ".parquet":
        return ray.data.read_parquet(data)
    return ray.data.read_text(data).rename_columns({"text": LINE})


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
    read(given.data).map_batches(
        Embed,
        fn_constructor_args=(given.model, given.role, given.text_field),
        batch_format="pyarrow",
        batch_size=2048,  # 64 batches of the model, sorted by length
        compute=ray.data.ActorPoolStrategy(size=given.workers),
        num_gpus=given.gpus_per_worker or None,
    ).write_parquet(given.output)


if __name__ == "__main__":
    main()
