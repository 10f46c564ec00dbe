"""A repo behind `transformers serve`, without Lookback, asked by OpenAI's client and by `transformers chat`."""

import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from modeling_srlm import SelfRetrievalLM
from tests.support.srlm import CHAT_TEMPLATE
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.demo.fresh_process import process_without_lookback

SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def openai() -> Any:
    """The client's module, which takes seconds to import."""
    pytest.importorskip("uvicorn", reason='needs the extra "serving"')
    return pytest.importorskip("openai", reason='needs the extra "serving"')


@pytest.fixture
def model() -> SelfRetrievalLM:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return SelfRetrievalLM.from_components(
        tiny_backbone("llama", eos_token_id=None), tokenizer, retrieval_method="bm25", reuse_states=True,
        context_window_size=64, chunk_size=16, key_num=2,
    )  # fmt: skip


@pytest.fixture
def server(openai, model, tmp_path):
    """(address, folder of the repo) of a server that is ready."""
    model.save_pretrained(tmp_path / "repo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--trust-remote-code", "--host", "127.0.0.1", "--port", str(port)]
    command = process_without_lookback(SERVE, "serve", tmp_path / "repo", *options, folder=tmp_path)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(**command, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
        yield f"http://127.0.0.1:{port}/v1", str(tmp_path / "repo")
    finally:
        process.kill()
        process.wait()


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


@pytest.mark.slow
def test_it_is_served_and_chats_as_it_stands(openai, model, server, tmp_path):
    address, folder = server
    client = openai.OpenAI(base_url=address, api_key="none")
    messages = [{"role": "system", "content": "answer."}]
    for number in range(4):
        messages.append(
            {"role": "user", "content": f"we hid thing {number} in the garden of the library, where is it?"}
        )
        wanted = model.chat(messages, max_new_tokens=12, do_sample=False).content
        settings = {"model": folder, "messages": messages, "max_tokens": 12, "temperature": 0}
        parts = [
            chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**settings, stream=True)
        ]
        # The stream leaves out bytes at the end that are no whole character.
        assert "".join(parts).rstrip("\ufffd") == wanted.rstrip("\ufffd") and len(parts) > 3
        assert client.chat.completions.create(**settings).choices[0].message.content == wanted
        messages.append({"role": "assistant", "content": wanted})
    flags = ["max_new_tokens=4", "do_sample=False"]
    command = process_without_lookback(SERVE, "chat", folder, address, *flags, folder=tmp_path)
    command["env"]["HF_HUB_OFFLINE"] = "0"  # its client reaches no server at all otherwise
    asked = "where is thing 2?\nn\n!exit\n"  # "n": not to go on past max_new_tokens
    done = subprocess.run(**command, input=asked, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answer = model.chat([{"role": "user", "content": "where is thing 2?"}], max_new_tokens=4, do_sample=False).content
    assert answer.strip("\ufffd \n")[:2] in done.stdout
