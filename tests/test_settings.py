"""Every setting of every family, loss, job and Trainer, by its annotation: a value of another type is refused by name.

The fields are looked up, so that one that is added later is held to the same.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy
import pytest
import torch
from transformers import TrainingArguments

from modeling_biencoder import BiEncoderConfig, Objectives
from modeling_llara import LlaraConfig
from modeling_srlm import SelfRetrievalConfig
from modeling_srlm.retriever_srlm import RetrieverSettings
from tests.support.tiny import tiny_backbone
from tests.support.training import arguments
from trainers import (
    BiEncoderTrainingArguments,
    DataSetEntry,
    LlaraTrainingArguments,
    SelfRetrievalTrainingArguments,
)
from trainers.feedback.settings import ScoreArguments
from trainers.mining.settings import MineArguments, MiningSettings

HUGE = 10**400  # no float holds it
NOTHING: dict[str, Any] = {"object": object(), "bytes": b"x", "set": {1}, "complex": 1j, "tensor": torch.tensor(2)}
NUMBERS = {"true": True, "numeral": "2", "fraction": 2.5, "nan": math.nan, "inf": math.inf, "none": None, "list": [1]}
# What is wrong by the type of a field alone.
WRONG: dict[Any, dict[str, Any]] = {
    int: {**NUMBERS, "whole float": 2.0, "numpy float": numpy.float64(2.0), **NOTHING},
    float: {name: value for name, value in NUMBERS.items() if name != "fraction"}
    | {"-inf": -math.inf, "huge": HUGE, "numpy nan": numpy.float32("nan"), **NOTHING},
    bool: {"one": 1, "zero": 0, "no": "no", "empty": "", "none": None, "list": [], "float": 1.0, **NOTHING},
    str: {"true": True, "number": 2, "none": None, "list": ["a"], "dict": {}, "nan": math.nan, **NOTHING},
    list: {"text": "ab", "number": 2, "true": True, "dict": {"a": 1}, "nested": [[[1]]], "objects": [object()],
           "array": numpy.array([1, 2]), **NOTHING},
    dict: {"text": "ab", "number": 2, "list": [1], "true": True, "numbers": {"a": 1}, "keys": {1: {}}, **NOTHING},
    "config": {"text": "ab", "number": 2, "true": True, "list": [1], "empty": {}, "no type": {"hidden_size": 3},
               "wrong": {"model_type": "llama", "hidden_size": "3"}, **NOTHING},
}  # fmt: skip
SIGNED = {"seed"}  # whole numbers that may be negative
OF_ANY_KIND = {"data"}  # of a data set: checked where it is read
# Numbers that are right for a field that has no default to try NumPy's numbers with, or where the default is special.
RIGHT: dict[str, Any] = {"false_negative_margin": 0.1, "relative_margin": 0.5}


def makers(folder: Path) -> dict[type, Callable[..., Any]]:
    """Each kind of settings with a function that makes one of the fields that are given, the others being right."""
    backbone = tiny_backbone().config
    output = str(folder / "output.jsonl")
    trained = (BiEncoderTrainingArguments, LlaraTrainingArguments, SelfRetrievalTrainingArguments)
    return {
        BiEncoderConfig: lambda **given: BiEncoderConfig(**{"text_config": backbone, **given}),
        LlaraConfig: lambda **given: LlaraConfig(**{"text_config": backbone, **given}),
        SelfRetrievalConfig: lambda **given: SelfRetrievalConfig(
            **{"text_config": backbone, "context_window_size": 256, **given}
        ),
        RetrieverSettings: RetrieverSettings,
        Objectives: Objectives,
        MiningSettings: MiningSettings,
        MineArguments: lambda **given: MineArguments(**{"data": __file__, "output": output, **given}),
        ScoreArguments: lambda **given: ScoreArguments(**{"data": __file__, "output": output, **given}),
        DataSetEntry: lambda **given: DataSetEntry(**{"data": "rows.jsonl", **given}),
        **{kind: partial(arguments, kind, folder) for kind in trained},
    }


KINDS = list(makers(Path()))


def own_fields(kind: type) -> dict[str, tuple[Any, Any]]:
    """{name: (annotation, default)} of the settings that are ours."""
    if kind is LlaraConfig:
        parameters = inspect.signature(LlaraConfig.__init__).parameters.values()
        return {one.name: (one.annotation, one.default) for one in parameters if one.name not in ("self", "kwargs")}
    ours = [base for base in kind.__mro__ if base.__module__.split(".")[0] in ("trainers", *FAMILIES)]
    named = {name for base in ours if is_dataclass(base) for name in inspect.get_annotations(base)}
    return {field.name: (field.type, field.default) for field in fields(kind) if field.name in named}


FAMILIES = ("modeling_biencoder", "modeling_llara", "modeling_srlm")


def kinds_of(name: str, annotation: Any, default: Any) -> set[Any]:
    """The types that a field may have, as `WRONG` names them."""
    parts = get_args(annotation) if get_origin(annotation) is UnionType else (annotation,)
    found = {NoneType} if default is None else set()
    for part in parts:
        origin = get_origin(part) or part
        if name.endswith("_config"):
            found.add("config")
        elif origin in (bool, int, float, str, NoneType, list, dict):
            found.add(origin)
        else:  # Sequence[int]
            found.add(list)
    return found


def wrong_values(name: str, annotation: Any, default: Any) -> Iterator[tuple[str, Any]]:
    kinds = kinds_of(name, annotation, default)
    taken = [WRONG[kind] for kind in kinds - {NoneType}]  # of several kinds, what is wrong for each of them
    for label, value in taken[0].items():
        if all(label in wrong for wrong in taken) and not (value is None and NoneType in kinds):
            yield label, value
    if int in kinds and name not in SIGNED:
        yield "negative", -1
    if int in kinds:
        yield "negative huge", -HUGE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_value_of_another_type_is_refused_by_name(kind, tmp_path):
    make, passed = makers(tmp_path)[kind], []
    for name, (annotation, default) in own_fields(kind).items():
        for label, value in () if name in OF_ANY_KIND else wrong_values(name, annotation, default):
            if kind is not SelfRetrievalConfig and name in SIGNED and label == "negative huge":
                continue  # seeds a text, whatever its length
            try:
                make(**{name: value})
            except (TypeError, ValueError) as error:
                if name not in str(error) and name != "ks":
                    passed.append(f"{name}={label}: {type(error).__name__} {str(error)[:100]}")
            else:
                passed.append(f"{name}={label}: accepted")
    assert passed == []


def test_fields_of_transformers_of_a_plain_type_are_held_to_it(tmp_path):
    """`seed="3"`, `bf16="no"`: transformers takes them, and ends much later."""
    hints, passed = get_type_hints(TrainingArguments), []
    swept = {field.name: hints[field.name] for field in fields(TrainingArguments) if field.name != "fsdp"}
    defaults = {field.name: field.default for field in fields(TrainingArguments)}
    for name, hint in swept.items():
        kinds = set(get_args(hint) or [hint])
        if not kinds <= {bool, int, float, str, NoneType} or (str in kinds and bool in kinds):
            continue
        for label, value in WRONG[next(iter(kinds - {NoneType}))].items():
            if value is None and (NoneType in kinds or defaults[name] is None):
                continue
            try:
                arguments(BiEncoderTrainingArguments, tmp_path, **{name: value})
            except (TypeError, ValueError) as error:
                if name not in str(error):
                    passed.append(f"{name}={label}: {type(error).__name__} {str(error)[:100]}")
            else:
                passed.append(f"{name}={label}: accepted")
    assert len(swept) > 80
    assert passed == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_of_numpy_are_those_of_python(kind, tmp_path):
    make = makers(tmp_path)[kind]
    plain = make()
    for name, (annotation, default) in own_fields(kind).items():
        kinds = kinds_of(name, annotation, default)
        value = RIGHT.get(name, getattr(plain, name))
        if not kinds & {int, float, bool} or value is None:
            continue
        for given in {numpy.asarray(value)[()], numpy.float64(value) if float in kinds else numpy.asarray(value)[()]}:
            found = getattr(make(**{name: given}), name)
            assert found == value, name
            assert type(found) in (bool, int, float), name


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SelfRetrievalConfig, {"bm25_b": 1.5}, "bm25_b=1.5 must be a finite number of at least 0 and at most 1"),
        (SelfRetrievalConfig, {"fusion_constant": 2**40}, "fusion_constant=1099511627776 must be at most 1000000"),
        (SelfRetrievalConfig, {"chunk_batch_size": 2**63}, "must be at most 2147483647"),
        (SelfRetrievalConfig, {"seed": 2**64}, "seed=18446744073709551616 must be"),
        (SelfRetrievalConfig, {"add_sep": [512]}, "add_sep holds 512, and the backbone's vocabulary ends at 511"),
        (SelfRetrievalConfig, {"retriever_settings": {"poolin": "cls"}}, "did you mean 'pooling'"),
        (SelfRetrievalConfig, {"retriever_settings": {"pooling": "max"}}, "pooling='max' is not known"),
        (BiEncoderConfig, {"embedding_dims": []}, "embedding_dims=.. must be None or a list of one width or more"),
        (BiEncoderTrainingArguments, {"train_group_size": 2**20}, "must be at most 10000 passages a query"),
        (BiEncoderTrainingArguments, {"eval_truncate_dims": [0]}, "eval_truncate_dims=0 must be at least 1"),
        (BiEncoderTrainingArguments, {"shuffle_buffer": 2**63}, "shuffle_buffer=9223372036854775808 must be at most"),
        (DataSetEntry, {"group_size": 2**63}, "group_size=9223372036854775808 must be at most 10000"),
        (LlaraTrainingArguments, {"learning_rate": -1}, "learning_rate=-1 must be a finite number of at least 0"),
        (LlaraTrainingArguments, {"stop_words": [3]}, "stop_words=.3. must be a list of texts"),
        (MiningSettings, {"block_size": 2**63}, "block_size=9223372036854775808 must be at most"),
        (ScoreArguments, {"document_length": 0}, "document_length=0 must be at least 1"),
    ],
)  # fmt: skip
def test_ranges(kind, settings, message, tmp_path):
    with pytest.raises((TypeError, ValueError), match=message):
        makers(tmp_path)[kind](**settings)


def test_a_path_serves_where_a_text_names_one(tmp_path):
    assert makers(tmp_path)[BiEncoderTrainingArguments](eval_retrieval=tmp_path).eval_retrieval == str(tmp_path)


def test_every_settings_class_of_the_trainers_is_swept():
    """Of those that a user fills in by Python; commands have theirs from the command line."""
    arguments_of_trainers = {kind for kind in KINDS if issubclass(kind, TrainingArguments)}
    import trainers

    named = {getattr(trainers, name) for name in trainers.__all__ if name.endswith(("Arguments", "Entry"))}
    assert named == arguments_of_trainers | {DataSetEntry}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BiEncoderConfig, {"temperature": "low"}, "temperature='low' must be a finite number"),
        (LlaraConfig, {"bow_loss_weight": "x"}, "bow_loss_weight='x' must be a finite number"),
        (LlaraConfig, {"num_summary_tokens": True}, "num_summary_tokens=True must be a whole number"),
        (SelfRetrievalConfig, {"key_num": True}, "key_num=True must be a whole number"),
        (SelfRetrievalConfig, {"retrieval_method": "bm26"}, "Did you mean 'bm25'"),
    ],
)
def test_settings_beside_a_saved_configuration_are_checked_too(kind, settings, message, tmp_path):
    makers(tmp_path)[kind]().save_pretrained(tmp_path)
    with pytest.raises((TypeError, ValueError), match=message):
        kind.from_pretrained(tmp_path, **settings)


def test_numbers_of_numpy_are_saved(tmp_path):
    config = makers(tmp_path)[BiEncoderConfig](temperature=numpy.float32(0.5), embedding_dims=[numpy.int64(8)])
    config.save_pretrained(tmp_path)
    loaded = BiEncoderConfig.from_pretrained(tmp_path)
    assert (loaded.temperature, loaded.embedding_dims) == (0.5, [8])
