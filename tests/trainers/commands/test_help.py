"""Help of the commands: quick, in groups, true; and hints for what there is not."""

import dataclasses
import re
import shlex
import subprocess
import sys
from importlib import import_module, metadata

import pytest
from transformers import HfArgumentParser, TrainingArguments

from tests.support import ROOT
from trainers import cli
from trainers.commands import COMMANDS, LIGHT
from trainers.commands.declared import declared, transformers_names
from trainers.commands.help import COMMON, HEADINGS, help_of
from trainers.commands.suggestions import ALSO_CALLED

TRAINING = ("finetune", "pretrain", "train-lm")
HEAVY = ("torch", "transformers", "datasets", "huggingface_hub", "accelerate", "peft", "numpy")


def arguments_of(command: str) -> tuple[type, ...]:
    return import_module(COMMANDS[command][0]).ARGUMENTS


def said(monkeypatch, capsys, *arguments: str) -> tuple[int, str]:
    """Exit status, and what the command line prints."""
    monkeypatch.setattr(sys, "argv", ["lookback", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        printed = capsys.readouterr()
        return int(ended.code or 0), printed.out + printed.err
    return 0, capsys.readouterr().out


def options_in(text: str) -> set[str]:
    """The options that a help text explains, not those that it names in a sentence."""
    return set(re.findall(r"^  --([\w-]+)(?![\w-]*[,.])", text, flags=re.MULTILINE))


def facts(kind: type) -> list[tuple]:
    """Whatever help tells of a dataclass; `X | None` as X, which HfArgumentParser makes of it once it has parsed."""
    return [
        (field.name, str(field.type).removesuffix(" | None").removeprefix("<class '").removesuffix("'>"),
         field.default_factory() if callable(field.default_factory) else field.default,
         dict(field.metadata))
        for field in dataclasses.fields(kind)
    ]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_read_from_the_source_is_what_the_command_takes(command):
    taken, real = declared(command), arguments_of(command)
    assert [kind.__name__ for kind in taken.arguments] == [kind.__name__ for kind in real]
    for read, kind in zip(taken.arguments, real, strict=True):
        of_transformers = {field.name for field in dataclasses.fields(TrainingArguments)}
        ours = {name for base in kind.__mro__ if base.__module__.split(".")[0] in ("trainers", "modeling_biencoder")
                for name in vars(base).get("__annotations__", ())}  # fmt: skip
        there = [one for one in facts(kind) if one[0] in ours or one[0] not in of_transformers]
        assert sorted(facts(read)) == sorted(there)
    assert taken.trains() == (command in TRAINING)
    assert [field.name for field in dataclasses.fields(TrainingArguments)] == list(transformers_names())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_every_option_of_ours_and_three_examples_that_parse(command):
    text, taken = help_of(command), declared(command)
    shown = options_in(text) - {"config", "debug", "help-all"}
    assert shown == {field.name for field in taken.fields()} - {"remove_unused_columns"}
    assert "--config FILE" in text
    examples = [line for line in taken.examples.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
    assert len(examples) == 3 and taken.examples.count("\n#") == 3
    if command in LIGHT:
        return  # no options to parse
    parser = HfArgumentParser(list(arguments_of(command)), allow_abbrev=False)
    if taken.positional is not None:
        parser.add_argument(taken.positional[0], nargs="*")
    for example in examples:
        words = shlex.split(example)
        options = words[words.index(command) + 1 :]
        if "--config" in options:
            options = ["--model", "m", "--train_data", "d", *options[2:]]
        parser.parse_args(options)  # ends the program for what there is not
    for line in taken.examples.splitlines():
        assert len(line) <= 110


@pytest.mark.cases(2)
@pytest.mark.parametrize("arguments", [["--help"], ["finetune", "--help"], ["explain", "-h"], ["--version"],
                                       ["finetune", "--data", "x"], ["fine-tune"]])  # fmt: skip
def test_help_and_hints_import_nothing_heavy_and_take_less_than_half_a_second(arguments):
    code = f"""if True:
        import sys, time
        began, sys.argv = time.process_time(), ["lookback", *{arguments!r}]
        try:
            import trainers.cli
            trainers.cli.main()
        except SystemExit:
            pass
        print(time.process_time() - began, sorted(set({HEAVY!r}) & set(sys.modules)))
    """
    for _ in range(3):  # the machine may have other work
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds, heavy = ended.stdout.splitlines()[-1].split(" ", 1)
        assert heavy == "[]"
        if float(seconds) < 0.4:
            return
    pytest.fail(f"it took {seconds} s of CPU")


def test_transformers_own_options_are_shown_on_demand_alone():
    short, full = help_of("finetune"), help_of("finetune", everything=True)
    assert options_in(full) >= set(transformers_names()) - {"remove_unused_columns"}
    assert options_in(short) & set(transformers_names()) == {"debug"}
    assert options_in(short) < options_in(full)
    assert set(COMMON) <= set(transformers_names())
    assert help_of("mine", everything=True) == help_of("mine")


@pytest.mark.parametrize("option", ["--help", "--help-all"])
def test_help_is_the_same_from_the_command_line(monkeypatch, capsys, option):
    for command in ("pretrain", "mine", "completion"):
        expected = help_of(command, everything=option == "--help-all")
        assert said(monkeypatch, capsys, command, option) == (0, expected)
        if command not in LIGHT:
            with pytest.raises(SystemExit):
                import_module(COMMANDS[command][0]).main([option])
            assert capsys.readouterr().out == expected


def test_ours_stand_in_groups_with_defaults():
    text = help_of("finetune")
    headings = re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)
    wanted = ["Model", "Data", "Rows and negatives", "Objective", "Large batches", "Evaluation of retrieval",
              "LoRA and quantisation", "Training and output", "Settings files and help", "examples"]  # fmt: skip
    assert [heading for heading in headings if heading in wanted] == wanted
    assert re.search(r"--lora_alpha N .*?\(default: 32\)", text, flags=re.DOTALL)
    assert "BACKBONE" not in help_of("generate") and str(ROOT) not in help_of("generate")


def test_headings_name_dataclasses_that_there_are():
    kinds = {base for command in COMMANDS for kind in arguments_of(command) for base in kind.__mro__}
    there = {f"{kind.__name__}.{name}" for kind in kinds for name in vars(kind).get("__annotations__", ())}
    assert set(HEADINGS) <= there | {name.partition(".")[0] for name in there}
    every = {name.partition(".")[2] for name in there}
    assert {name for names in ALSO_CALLED.values() for name in names} <= every


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["finetun"], "did you mean 'finetune'?"),
        (["train_lm"], "did you mean 'train-lm'?"),
        (["xyz"], "is no command: one of demo, pretrain"),
        (["finetune", "--data", "x"], "--data is no option of this command: did you mean --train_data?"),
        (["evaluate", "--train_data=x"], "did you mean --data?"),
        (["finetune", "--trian-data", "x"], "did you mean --train_data?"),
        (["finetune", "--batch_size", "8"], "did you mean --per_device_train_batch_size?"),
        (["finetune", "--lr", "1"], "did you mean --learning_rate?"),
        (["encode", "--output_dir", "x"], "did you mean --output?"),
        (["mine", "--zzzz", "x"], "--zzzz is no option of this command: leave it out."),
        (["encode", "--hlep"], "did you mean --help?"),
        (["finetune", "--model", "x"], "--train_data must be given"),
        (["encode", "--model", "m"], "--data and --output must be given"),
        (["encode", "--model", "m", "--data", "d", "--output", "o.safetensors", "--role", "qery"], "'qery'"),
    ],
)
def test_what_there_is_not_is_one_line_with_what_was_meant(monkeypatch, capsys, arguments, hint):
    status, text = said(monkeypatch, capsys, *arguments)
    assert (status, len(text.splitlines())) == (2, 1)
    assert hint in text and text.startswith(f"lookback {arguments[0]}: " if arguments[0] in COMMANDS else "lookback: ")


def test_a_value_that_begins_like_an_option_is_none(monkeypatch, capsys):
    status, text = said(monkeypatch, capsys, "generate", "--prompt", "-- and then", "--prompt_file", "x")
    assert status == 2 and "give one of --prompt and --prompt_file" in text


def test_the_version_is_that_of_the_installation(monkeypatch, capsys):
    assert said(monkeypatch, capsys, "--version") == (0, f"lookback {metadata.version('lookback')}\n")


@pytest.mark.slow
def test_public_names_come_when_they_are_asked_for():
    code = """if True:
        import sys, trainers
        assert "trainers.public" not in sys.modules
        assert not hasattr(trainers, "BiEncoderTrainers") and not hasattr(trainers, "__wrapped__")
        from trainers import *
        assert BiEncoderTrainer is trainers.BiEncoderTrainer and callable(explain)
        assert set(trainers.__all__) <= set(dir(trainers))
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
