import pytest

from chiasma.search.generators.generator import Answer
from chiasma.search.generators.parsing import Code, Nothing, Tree, code_of, tree_of

SOURCE = "import torch\n\n\nclass FusionModule(torch.nn.Module):\n    pass\n"


def fenced(source, language="python"):
    return f"```{language}\n{source}```\n"


@pytest.mark.parametrize("language", ["python", "py", "", "Python"])
def test_the_source_of_a_fenced_block_is_found_between_words(language):
    text = f"First I compare the two.\n\n{fenced(SOURCE, language)}\nThat is all."
    assert code_of(Answer(text=text)) == Code(SOURCE)


def test_of_two_blocks_the_last_that_defines_the_class_is_taken():
    draft = SOURCE.replace("pass", "draft = True")
    text = f"{fenced(draft)}\nBetter:\n{fenced(SOURCE)}\nUse it so:\n{fenced('FusionModule(8, 8, 8)')}"
    assert code_of(Answer(text=text)) == Code(SOURCE)


def test_fences_inside_a_docstring_do_not_end_the_block():
    inside = "Such as\n\n    ```python\n    fused = 1\n    ```\n\n    and so on."
    source = f'class FusionModule:\n    """{inside}\n    """\n\n    dim = 3\n'
    assert code_of(Answer(text=f"Here:\n{fenced(source)}Done.")) == Code(source)


def test_a_docstring_fence_at_the_margin_does_not_end_the_block_either():
    source = 'class FusionModule:\n    """Such as\n\n```\nfused = 1\n```\n    """\n\n    dim = 3\n'
    assert code_of(Answer(text=fenced(source))) == Code(source)


def test_longer_fences_and_indented_blocks_are_read():
    assert code_of(Answer(text=f"````python\n{SOURCE}````")) == Code(SOURCE)
    indented = "".join(f"   {line}\n" if line else "\n" for line in fenced(SOURCE).splitlines())
    assert code_of(Answer(text=f"1. Here\n{indented}")) == Code(SOURCE)


def test_bare_source_without_a_fence_is_taken():
    assert code_of(Answer(text=SOURCE)) == Code(SOURCE)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(text=""), "the answer is empty"),
        (Answer(text=" \n\t"), "the answer is empty"),
        (Answer(text="Attention would be good."), "the answer holds no fenced block of Python"),
        (Answer(text=fenced("x = 1\n")), "no block of the answer defines class FusionModule"),
        (Answer(text=fenced(SOURCE), finish="length"), "the answer was cut off at its longest; it must be shorter"),
        (Answer(text=f"```python\n{SOURCE}"), "the answer holds no fenced block of Python"),
        (Answer(text=fenced(SOURCE), refusal="No.\nNever."), 'the model declined: "No."'),
        (Answer(text="I'm sorry, but I can't help."), "the model declined: \"I'm sorry, but I can't help.\""),
        (Answer(text=fenced(SOURCE + "# \ufffd\n")), "the answer holds bytes that are not text"),
        (Answer(text="a" * 5_000_000), "the answer has 5,000,000 characters, but at most 1,000,000 are read"),
        (
            Answer(text=fenced(SOURCE + "#" * 100_000 + "\n")),
            "the source has 100,062 characters, but at most 100,000 are",
        ),
    ],
    ids=range(11),
)
def test_an_answer_without_usable_source_says_why(answer, reason):
    found = code_of(answer)
    assert isinstance(found, Nothing)
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("text", ['{"op": "gate"}', '```json\n{"op": "gate"}\n```', 'Here: {"op": "gate"} as asked.'])
def test_the_object_of_a_json_answer_is_found(text):
    assert tree_of(Answer(text=text)) == Tree({"op": "gate"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing", "the answer holds no JSON object"),
        ('{"op": }', "the answer is not usable JSON: Expecting value"),
        ('{"op": 1, "op": 2}', "the answer is not usable JSON: key 'op' is there twice"),
        ('{"op": NaN}', "the answer is not usable JSON: NaN"),
        ('{"op":' * 100_000 + "}", "the JSON has 600,000 characters"),
        ('{"op":' * 10_000 + "}" * 10_000, "the answer is not usable JSON: it is nested too deeply"),
    ],
    ids=["words", "no value", "twice", "not a number", "too long", "too deep"],
)
def test_an_answer_without_usable_json_says_why(text, reason):
    found = tree_of(Answer(text=text))
    assert isinstance(found, Nothing)
    assert found.reason.startswith(reason)


def test_an_answer_of_nothing_but_fences_is_read_quickly():
    text = '```python\n"""\n' + "```\n" * 100_000
    assert code_of(Answer(text=text)) == Nothing("no block of the answer defines class FusionModule")
