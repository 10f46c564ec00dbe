"""The sub-commands of `lookback`, one a file, imported only when it is called.

A command's module has `main(argv)` and declares what it takes at its top level, where `declared` finds it without
importing the module: `ARGUMENTS`, a tuple of dataclasses; `EXAMPLES`, three lines to copy, each behind a comment; and
`POSITIONAL`, a name and its help, where texts may stand without an option.
"""

# Name -> where it is, and what it does in a line.
COMMANDS = {
    "demo": ("trainers.demo.run", "the whole loop on a small model, or real ones, in minutes, with a report"),
    "pretrain": ("trainers.commands.pretrain", "adapt a decoder to embedding with LLaRA, without labels"),
    "explain": ("trainers.commands.explain", "print the words that a LLaRA embedding of a text stands for"),
    "finetune": ("trainers.commands.finetune", "train a bi-encoder on queries and passages"),
    "evaluate": ("trainers.commands.evaluate", "measure how well a bi-encoder finds relevant passages"),
    "needle": ("trainers.commands.needle", "evaluate --needle: find what is hidden in long texts, looking back"),
    "encode": ("trainers.commands.encode", "write embeddings of many texts to a file"),
    "search": ("trainers.commands.search", "find texts in what encode wrote"),
    "convert": ("trainers.commands.convert", "make a bi-encoder of a LLaRA model or checkpoint"),
    "merge": ("trainers.commands.merge", "make a complete model of an adapter and its base"),
    "train-lm": ("trainers.commands.train_lm", "train a self-retrieval language model on long documents"),
    "score": ("trainers.commands.score", "make teacher scores for the bi-encoder from a language model's feedback"),
    "mine": ("trainers.commands.mine", "find hard negatives for the bi-encoder's rows"),
    "perplexity": ("trainers.commands.perplexity", "score documents with and without looking back"),
    "generate": ("trainers.commands.generate", "continue a text of any length, looking back"),
    "plan": ("trainers.commands.plan", "reckon memory, operations and hours of a training or an index"),
    "push": ("trainers.commands.push", "send a saved model to the Hub"),
    "pull": ("trainers.commands.pull", "fetch a model from the Hub"),
    "env": ("trainers.commands.env", "print versions, platform and accelerators, for a report"),
    "completion": ("trainers.commands.completion", "print a completion of commands and options for a shell"),
}
# Those whose work several processes share.
SHARED = ("pretrain", "finetune", "train-lm", "evaluate", "needle", "encode", "score", "mine", "perplexity")
# Those that import nothing heavy, and work where a package that the others need is broken.
LIGHT = ("env", "completion")
# (a command, an option of it) -> the command that is meant then.
SWITCHES = {("evaluate", "--needle"): "needle"}
