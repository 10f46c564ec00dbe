"""BiEncoderModel: a transformers backbone that turns texts into vectors, with the losses that train it to."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .backbone_biencoder import from_backbone, initialize
from .batch_inputs_biencoder import backbone_keywords, check_alone, check_batch
from .batch_loss_biencoder import weighted_loss
from .configuration_biencoder import BiEncoderConfig
from .encoding_biencoder import encode, tokenize
from .export_biencoder import export_sentence_transformers
from .inputs_biencoder import alike, check_embed
from .objectives_biencoder import Objectives
from .packing_biencoder import can_pack, read_packed
from .placement_biencoder import is_sharded, to_inputs
from .pooling_biencoder import dense_layers, drop_pooler, finish, pack_left, pool, project
from .prompting_biencoder import pad_rows
from .repository_biencoder import CompleteRepository
from .sentence_encoder_biencoder import say_own_width, write_sentence_files
from .subbatch_biencoder import embed_texts, for_each_row, shape_of


@dataclass
class BiEncoderOutput(ModelOutput):
    """What `BiEncoderModel` returns; B queries, G passages for each, width d.

    Args:
        loss: the weighted sum of `losses`, which are means over this process's queries; in a distributed run scaled so
            that the mean over processes is the loss of the joint batch.
        contrastive_loss: InfoNCE over `scores`.
        distillation_loss: cross entropy from the teacher's to the student's distribution over each own group.
        losses: {name: loss} of all that the batch was trained for; those of a narrower width end in `_<width>`.
        scores: similarities / temperature, (B, B * G) in-batch (of all processes, if distributed) or (B, G) own-group.
        q_reps, p_reps: (B, d) embeddings of the queries, and (B * G, d) of the passages.
        embeddings: (batch, d), when token ids were given rather than queries and passages.
    """

    loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    distillation_loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    scores: torch.Tensor | None = None
    q_reps: torch.Tensor | None = None
    p_reps: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class BiEncoderModel(CompleteRepository):
    """A backbone, pooled to one embedding for each text.

    >>> model = BiEncoderModel.from_backbone("gpt2", pooling="mean")  # doctest: +SKIP
    >>> queries = model.encode(["who wrote Faust?"], role="query")  # doctest: +SKIP
    >>> passages = model.encode(["Goethe wrote it.", "A poodle."], role="passage")  # doctest: +SKIP
    >>> model.similarity(queries, passages)  # (1, 2)  # doctest: +SKIP
    """

    config: BiEncoderConfig
    config_class = BiEncoderConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over queries: Trainer must not scale it by accumulation steps
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    # transformers looks for experts in this file, but they are the backbone's; without this it refuses to load any
    _can_set_experts_implementation_cached_value = True

    def __init__(self, config: BiEncoderConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(config.text_config) if backbone is None else backbone
        self.dense = dense_layers(config.dense)
        drop_pooler(self.backbone)
        self.backbone.config.use_cache = False  # keys and values would be kept for nothing
        initialize(self, given=backbone is not None)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike | None = None,
        **config: Any,
    ) -> "BiEncoderModel":
        """A new bi-encoder.

        Args:
            backbone: repo id, path or model; of a model with a head (...ForCausalLM) the base model is taken over,
                not copied. A sentence-transformers model (SentenceTransformer, its id or folder) brings its pooling,
                dense layers, length, prompts and similarity.
            tokenizer: the tokenizer, its repo id or path; None loads it from the backbone's repo when needed.
            config: fields of `BiEncoderConfig`, and keywords of `AutoModel.from_pretrained` such as revision, token,
                cache_dir, dtype, attn_implementation.

        Raises ValueError or TypeError for a wrong value or keyword.
        """
        return from_backbone(cls, backbone, tokenizer, config)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query: Mapping[str, Any] | None = None,
        passage: Mapping[str, Any] | None = None,
        teacher_scores: torch.Tensor | None = None,
        in_batch_negatives: bool = True,
        return_loss: bool = True,
        identity: Mapping[str, torch.Tensor] | None = None,
        objectives: Objectives | None = None,
        sub_batch_size: int | None = None,
        counted: bool = True,
        **kwargs: Any,
    ) -> BiEncoderOutput:
        """Embeddings of token ids, or the loss of a batch of queries and passages.

        Args:
            input_ids, attention_mask: (batch, length), padded on either side.
            query: {"input_ids", "attention_mask"} of B queries.
            passage: the same of B * G passages, query i's at i * G to (i + 1) * G - 1, its positive first.
            teacher_scores: (B, G) scores of each query's own passages, to distil from.
            in_batch_negatives: score every query with all passages; False: with its own only.
            return_loss: False gives `q_reps` and `p_reps` alone. (True by default, or Trainer evaluates no loss.)
            identity: {"query": (B,), "passage": (B * G,), "positives": (B, P)} int64, equal where texts are (see
                `Identity`), so that known positives do not serve as negatives.
            objectives: the terms of the loss; by default InfoNCE, and distillation where there are teacher scores.
            sub_batch_size: texts embedded at a time: same gradient, less memory, and a second forward pass.
            counted: False: rows that only keep the processes together; no other one meets them, their loss is 0.
            kwargs: for the backbone.
        """
        kwargs = backbone_keywords(self.backbone, kwargs)
        loss = (teacher_scores, in_batch_negatives, identity, objectives)
        if input_ids is not None and query is None and passage is None:
            check_alone(teacher_scores=teacher_scores, identity=identity, objectives=objectives)
            return BiEncoderOutput(embeddings=self.embed(input_ids, attention_mask, **kwargs))
        query, passage = check_batch(input_ids, query, passage, self, loss, return_loss, sub_batch_size)
        given = sub_batch_size, kwargs, is_sharded(self)
        q_reps, p_reps = embed_texts(self.embed, query, False, *given), embed_texts(self.embed, passage, True, *given)
        if not return_loss:
            return BiEncoderOutput(q_reps=q_reps, p_reps=p_reps)
        return self.compute_loss(q_reps, p_reps, *loss, counted=counted)

    def embed(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        truncate_dim: int | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(batch, length) token ids, padded on either side -> (batch, d) embeddings, at least float32."""
        check_embed(input_ids, attention_mask, kwargs.get("position_ids"), truncate_dim, self)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = {"input_ids": input_ids, "attention_mask": mask, **for_each_row(kwargs, input_ids)}
        rows |= pack_left({name: value for name, value in rows.items() if shape_of(value) == input_ids.shape}, mask)
        placed = dict(zip(rows, to_inputs(self, *rows.values()), strict=True))
        states = read_packed(self, **placed) if can_pack(self, placed) else self.backbone(**placed)[0]
        hidden = states.to(input_ids.device)  # (batch, length, d)
        pooled = pool(hidden, rows["attention_mask"], self.config.pooling, self.config.pooling_k)
        return finish(project(pooled, self.dense), self.config.normalize, truncate_dim)

    def compute_loss(
        self,
        q_reps: torch.Tensor,
        p_reps: torch.Tensor,
        teacher_scores: torch.Tensor | None = None,
        in_batch_negatives: bool = True,
        identity: Mapping[str, torch.Tensor] | None = None,
        objectives: Objectives | None = None,
        counted: bool = True,
    ) -> BiEncoderOutput:
        """The loss of finished embeddings, (B, d) queries and (B * G, d) passages; arguments as in `forward`.

        With `config.embedding_dims` it is the sum over these widths and the full one. In a distributed run every
        process must call it; the mean over processes is that of the joint batch, of unequal shares too.
        """
        loss, losses, scores = weighted_loss(
            q_reps, p_reps, teacher_scores, in_batch_negatives, identity, objectives, self.config, counted
        )
        return BiEncoderOutput(
            loss, losses.get("contrastive_loss"), losses.get("distillation_loss"),
            losses=losses, scores=scores, q_reps=q_reps, p_reps=p_reps,
        )  # fmt: skip

    def tokenize(
        self,
        texts: Sequence[str],
        role: str | None = "query",
        task: str | None = None,
        examples: Sequence[tuple[str, str]] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Texts in their prompts -> `input_ids` and `attention_mask` on the model's device, ready for `forward`."""
        rows = tokenize(texts, self.tokenizer, self.config, role, task, examples)
        return {name: tensor.to(self.device) for name, tensor in pad_rows(rows, self.tokenizer).items()}

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        role: str | None = "query",
        task: str | None = None,
        examples: Sequence[tuple[str, str]] | None = None,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        show_progress: bool | None = None,
    ) -> torch.Tensor:
        """Embeddings of texts, (len(texts), d) float32 on the CPU, in the order given.

        Args:
            texts: any number of strings, none included; an empty string is embedded as an end-of-sequence token.
            role: `query` or `passage`: which of the task's prompts to use; None is no prompt.
            task: a key of `config.prompts`; None is "default".
            examples: (query, answer) pairs put before each query (see `instruction_prompt`).
            batch_size: texts that are embedded at once, on a CPU fewer where they are long.
            truncate_dim: keep the first numbers only (Matryoshka), normalised anew.
            show_progress: a progress bar; None shows it for jobs of more than two seconds.
        """
        return encode(self, texts, role, task, examples, batch_size, truncate_dim, show_progress)

    def similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """(n, d) and (m, d) -> (n, m): cosine or dot product, as `config.similarity` says."""
        a, b = alike(a, b)
        if self.config.similarity == "cosine":
            a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
        return a @ b.T

    def export_sentence_transformers(self, folder: str | os.PathLike, truncate_dim: int | None = None) -> None:
        """Write a folder that `SentenceTransformer(folder)` loads, with equal embeddings.

        Where it has no module for what the model does, such as `mean_last_k` or a prompt's suffix, the folder is that
        of `save_pretrained`: `SentenceTransformer(folder, trust_remote_code=True)`. It cuts vectors to `truncate_dim`,
        and normalises them anew (Matryoshka).

        Raises ValueError for a model with an adapter that is not merged.
        """
        export_sentence_transformers(self, folder, truncate_dim)

    def _remember_source(self, source: str | os.PathLike, keywords: dict[str, Any]) -> None:
        super()._remember_source(source, keywords)
        say_own_width(source, keywords)

    def _save_beside(self, folder: Path) -> None:
        super()._save_beside(folder)
        write_sentence_files(self.config, folder)


BiEncoderModel.register_for_auto_class("AutoModel")
