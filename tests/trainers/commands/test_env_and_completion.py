"""`lookback env` and `lookback completion`."""

import getpass
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from trainers.commands import completion, env


def lookback(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainers.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )


def test_env_tells_versions_and_nothing_private(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    said = "\n".join(env.lines())
    for name in ("lookback", "Python", "torch", "transformers", "datasets", "accelerators"):
        assert f"- {name}: " in said
    private = [str(Path.home()), str(ROOT), os.uname().nodename, "hf_abcdefghijkl", sys.prefix]
    private += [name for name in (getpass.getuser(),) if len(name) > 4]
    assert not [one for one in private if one in said]


def test_env_works_where_torch_and_datasets_are_broken(tmp_path):
    for name in ("torch", "datasets", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise OSError('/secret/place/libcudart.so: cannot open')")
    said = lookback("env", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert said.returncode == 0, said.stderr
    assert "- accelerators: unknown, as torch cannot be imported (OSError)" in said.stdout
    assert "secret" not in said.stdout


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("completion") / "completion.sh"
    file.write_text(lookback("completion", "bash").stdout)
    return file


@pytest.mark.skipif(importlib.util.find_spec("shtab") is None, reason="needs the extra completion")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["fine"], {"finetune"}),
        (["finetune", "--lora_r"], {"--lora_rank"}),
        (["finetune", "--output_d"], {"--output_dir"}),  # transformers'
        (["encode", "--role", ""], {"query", "passage"}),
        (["finetune", "--config", "fi"], {"file.yaml"}),
        (["completion", "z"], {"zsh"}),
    ],
)
def test_bash_completes_commands_options_choices_and_files(script, tmp_path, words, found):
    (tmp_path / "file.yaml").touch()
    quoted = " ".join(f"'{word}'" for word in ["lookback", *words])
    code = (
        f"source {script}; cd {tmp_path}; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; _shtab_lookback; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    printed = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout
    assert set(printed.split()) == found


def test_a_shell_that_there_is_not_and_a_package_that_lacks(monkeypatch):
    said = lookback("completion", "fish")
    assert said.returncode == 2
    assert said.stderr == "lookback completion: 'fish' must be one of bash, zsh, tcsh: lookback completion bash.\n"
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install shtab"):
        completion.main(["bash"])
