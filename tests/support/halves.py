"""Ways to make half a sentence-transformers model of a whole one, and what is said of each where it is a folder."""

import json
import shutil

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:53aa\nsize 90868376\n"


def without(name):
    return lambda folder: (folder / name).unlink()


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def elsewhere(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


def without_words(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


HALVES = {
    "no config": (without("config.json"), r"'model' has no config\.json, which says what kind .*: fetch the model"),
    "a cut config": (holding("config.json", b'{"model_ty'), r"config\.json of 'model' is no JSON .*: fetch it again"),
    "no weights": (without("model.safetensors"), r"'model' has no file named model\.safetensors: fetch the model"),
    "cut weights": (cut, r"model\.safetensors of 'model' is truncated.*: fetch it again"),
    "empty weights": (holding("model.safetensors", b""), r"model\.safetensors of 'model' is truncated.*\(0 bytes\)"),
    "a pointer": (holding("model.safetensors", POINTER.encode()), "'model' is a pointer of Git LFS.*git lfs pull"),
    "a pickle": (a_pickle, r"no file named model\.safetensors: pytorch_model\.bin is a pickle.*as safetensors"),
    "no tokenizer": (without_words, r"no tokenizer could be loaded from 'model': it has no tokenizer\.json.*: fetch"),
    "no vocabulary": (without("tokenizer.json"), "no tokenizer could be loaded from 'model'.*set model.tokenizer"),
    "a cut tokenizer": (holding("tokenizer.json", b'{"ver'), r"tokenizer\.json of 'model' is no JSON.*: fetch it"),
    "no folder of a module": (
        lambda folder: shutil.rmtree(folder / "1_Pooling"), r"'model' has no 1_Pooling/config\.json, .*Fetch it whole",
    ),
    "a cut module": (holding("1_Pooling/config.json", b'{"wo'), r"1_Pooling/config\.json of 'model' is no JSON"),
    "no folder of the backbone": (elsewhere, r"'model' has no 0_Transformer/config\.json, which its modules\.json"),
}  # fmt: skip
