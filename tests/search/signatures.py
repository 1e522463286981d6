"""Every kind of data that the hand-written space must fit."""

from chiasma.data.signature import ImageInput, Signature, Target, TextInput, TokensInput

IMAGE = ImageInput(channels=3, height=8, width=8)
TEXT = TextInput(vocabulary=30, length=6)
TOKENS = TokensInput(count=4, dim=12, boxes=True)
INPUTS = {
    "image+text": {"image": IMAGE, "text": TEXT},
    "tokens+text": {"image": TOKENS, "text": TEXT},
    "image": {"image": ImageInput(channels=1, height=5, width=12)},
    "text": {"text": TEXT},
    "tokens": {"image": TOKENS},
}
TARGETS = {
    "classification": Target(task="classification", labels=("no", "yes", "perhaps")),
    "multilabel": Target(task="multilabel", labels=("a", "b")),
    "regression": Target(task="regression", labels=("height",)),
}
SIGNATURES = {
    f"{modalities} {task}": Signature(inputs=inputs, target=target)
    for modalities, inputs in INPUTS.items()
    for task, target in TARGETS.items()
}
