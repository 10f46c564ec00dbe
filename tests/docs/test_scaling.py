"""docs/scaling.md: what it prints is what `lookback plan` prints, and its formula of a Llama layer is measured."""

import re

import pytest

from modeling_biencoder import BiEncoderModel
from tests.support.page_shell import calls_of, programs, runner_of
from tests.support.pages import blocks_of, text_of
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.cli import run
from trainers.planning.activations import kept_of

PAGE = "docs/scaling.md"
PLANS = re.findall(r"^```bash\n(lookback plan.*?)^```\n\n```text\n(.*?)^```$", text_of(PAGE), flags=re.M | re.S)


def test_every_plan_of_the_page_shows_what_it_prints():
    assert len(PLANS) == len(blocks_of(PAGE, "bash")) == 4


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("command", "shown"), [pytest.param(*plan, marks=pytest.mark.slow) if "--passages" in plan[0] else plan
                           for plan in PLANS]
)  # fmt: skip
def test_a_plan_is_what_the_command_prints(command, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    programs(tmp_path)
    runner_of(PAGE)(blocks_of(PAGE, "python")[0].text)
    ((_, *words),) = calls_of(command, tmp_path)
    run(words)
    assert capsys.readouterr().out == shown


def test_a_llama_layer_keeps_what_the_page_says():
    backbone = tiny_backbone("llama", lm_head=False, num_key_value_heads=4, intermediate_size=80)
    model = BiEncoderModel.from_backbone(backbone, tiny_tokenizer(), pooling="mean")
    assert "$4 (10 d + 4 d_{ff})$" in text_of(PAGE)
    ((_, each, mask),) = kept_of(model, False, False).layers
    assert each == pytest.approx(4 * (10 * 32 + 4 * 80), rel=0.05) and mask == pytest.approx(4)
