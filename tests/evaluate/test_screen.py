"""What the screen refuses and what it lets pass: the corpus, single rules, and random splices."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasma.evaluate.screen import Screened, SourceRefusal, screen
from chiasma.evaluate.screen_names import FORBIDDEN_ATTRIBUTES, MODULES, OTHER_ATTRIBUTES, TENSOR_METHODS
from tests.evaluate.corpus import expecting, shared_folder

BODY = """
import torch
from torch import nn
import torch.nn.functional as F

class FusionModule(nn.Module):
    def __init__(self, image_dim, text_dim, dim):
        super().__init__()
        self.i = nn.Linear(image_dim, dim)
        {init}

    def forward(self, image_tokens, text_tokens, image_mask, text_mask):
        {forward}
        return self.i(image_tokens).mean(1)
"""


def module(forward: str = "pass", init: str = "pass", top: str = "") -> str:
    return BODY.format(forward=forward, init=init) + "\n" + top


def refusal(source: str | bytes) -> SourceRefusal:
    found = screen(source)
    assert isinstance(found, SourceRefusal), source
    return found


def test_the_shared_corpus_is_there():
    if shared_folder() is None:
        pytest.skip("There is no folder security beside CHIASMA_TEST_DATA; our own corpus is tested alone.")
    assert len(expecting("reject", "contain", "accept")) > 100


@pytest.mark.parametrize("case", expecting("reject"), ids=lambda case: case.name)
def test_what_must_be_refused_is_refused_with_line_and_rule(case):
    found = refusal(case.data)
    assert found.rule
    assert found.message.endswith((".", "?"))
    assert "\n" not in found.words


@pytest.mark.parametrize("case", expecting("accept"), ids=lambda case: case.name)
def test_no_honest_module_is_refused(case):
    found = screen(case.data)
    assert isinstance(found, Screened), found
    assert len(found.sha256) == 64


@pytest.mark.parametrize(
    ("source", "rule", "message"),
    [
        (module("x = torch.os"), "paths", "line 13: torch.os may not be used. Did you mean 'cos'?"),
        (module("x = torch.load('x')"), "paths", "torch.load may not be used."),
        (module("x = torch"), "paths", "the module 'torch' may only be used as torch.something."),
        (module("x = [F][0]"), "paths", "the module 'F' may only be used as F.something."),
        (module("x = torch.nn"), "paths", "the module torch.nn may only be used as torch.nn.something."),
        (module("F.softmax = None"), "state", "F.softmax belongs to everybody and may not be changed."),
        (module("del F.softmax"), "state", "F.softmax belongs to everybody and may not be changed."),
        (module("for F.softmax in []: pass"), "state", "F.softmax belongs to everybody and may not be changed."),
        (module("nn.Linear.forward = None"), "state", "nn.Linear.forward belongs to everybody"),
        (module("x = open('x')"), "names", "the name 'open' is neither defined here nor one that may be used."),
        (module("x = getattr"), "names", "'getattr' may only be called."),
        (
            module("x = getattr(image_tokens, 'shape')"),
            "attributes",
            "getattr may only be used as getattr(self, 'name')",
        ),
        (module("x = getattr(self, '__dict__')"), "attributes", "getattr may only be used as getattr(self, 'name')"),
        (module("x = getattr(self, 'gi_' + 'frame')"), "attributes", "getattr may only be used as getattr(self"),
        (module("x = getattr(self, text_mask)"), "attributes", "getattr may only be used as getattr(self, 'name')"),
        (module("x = type('X', (), {})"), "names", "type may only be asked for the type of one value."),
        (module("x = self.__dict__"), "attributes", "the attribute '__dict__' may not be used."),
        (module("x = image_tokens.numpy()"), "attributes", "the attribute 'numpy' may not be used."),
        (module("x = '{0.os}'.format(1)"), "attributes", "format may only fill a literal template without dots"),
        (module("x = '{:{}}'.format(1, 2)"), "attributes", "format may only fill a literal template without dots"),
        (module("f = str.format"), "attributes", "format may only fill a literal template without dots"),
        (module("global x"), "syntax", "global statements may not be used."),
        (module("x = b'x'"), "syntax", "bytes may not be used."),
        (module("x = 10 ** 10 ** 8"), "numbers", "powers above 1000 may not be taken."),
        (module("x = 99999999999999"), "numbers", "whole numbers may not exceed 1,000,000,000,000."),
        (module("try: pass\n        except: pass"), "syntax", "a bare except may not be used; name the exception."),
        (module(top="import os"), "import", "os may not be imported; use torch"),
        (module(top="from torch import *"), "import", "torch.* may not be imported."),
        (module(top="from . import x"), "import", ". may not be imported; use torch"),
        (module(top="from torch import load"), "import", "torch.load may not be imported."),
        (module(top="torch = 1"), "names", "'torch' is imported and must not be given another meaning."),
        (module(top="class A(nn.Module, metaclass=type): pass"), "classes", "classes may not have keywords"),
        (module(top="class A(torch.Tensor): pass"), "classes", "torch.Tensor may not be a base class."),
        (module(top="def __getattr__(name): pass"), "names", "__getattr__ may not be defined: Python calls it unseen."),
        (module(top="print = 1"), "names", "'print' may not be given another meaning."),
        (module(top="x = (((((1"), "syntax", "this is not Python: '(' was never closed."),
        (module(top="x = " + "-" * 90 + "1"), "size", "the source is nested more than 60 deep"),
        (module(top="x = 1" + " + 1" * 5000), "size", "the source is nested too deeply to be read."),
        (module(top="x = [" + "1," * 13000 + "]"), "size", "the source has more than 12,000 parts"),
        (module(top="#" * 50000), "size", "the source has 50,"),
        (module(top="# \u202e x"), "characters", "U+202E (RIGHT-TO-LEFT OVERRIDE), which hides text."),
        (module(top="# x \r import os"), "characters", "U+000D (control character), which hides text."),
        (module(top="x\u200b = 1"), "characters", "U+200B (ZERO WIDTH SPACE), which hides text."),
        (module(top="\ufb01 = 1"), "identifier", "names must be plain ASCII, but one is '\ufb01'."),
        ("# coding: latin-1\n" + module(), "encoding", "the source must be UTF-8, but declares 'latin-1'."),
        (b"\xff" + module().encode(), "encoding", "line 1: the source must be UTF-8, but it holds other bytes."),
        ("\x00", "characters", "U+0000"),
        ("", "contract", "the source is empty; it must define the class FusionModule."),
        ("x = 1", "contract", "the source must define the class FusionModule at its top level."),
    ],
    ids=lambda value: "" if isinstance(value, bytes) or "\n" in value or not value else value[:40],
)
def test_a_refusal_names_rule_line_and_remedy(source: str | bytes, rule: str, message: str):
    found = refusal(source)
    assert found.rule == rule, found
    assert message in found.words


def test_a_source_is_known_by_the_hash_of_its_bytes():
    found = screen(module())
    assert isinstance(found, Screened)
    assert found.source == module()
    assert screen(module() + " ") != found
    assert screen(module().encode()) == found


def test_windows_line_ends_are_no_offence():
    assert isinstance(screen(module().replace("\n", "\r\n")), Screened)


def test_the_lists_hold_nothing_that_leads_out():
    assert not (TENSOR_METHODS | OTHER_ATTRIBUTES) & FORBIDDEN_ATTRIBUTES
    out = {"os", "sys", "builtins", "ctypes", "importlib", "load", "save", "hub", "jit", "multiprocessing", "classes"}
    for name, members in MODULES.items():
        assert not members & out, name
        assert not [member for member in members if member.startswith("_")], name


HONEST = [case.text for case in expecting("accept")]
HOSTILE = [
    "open('x')",
    "torch.os",
    "().__class__.__base__",
    "(lambda: 0).__globals__",
    "(i for i in ()).gi_frame",
    "vars(torch)",
    "eval('1')",
    "torch.load",
    "torch.hub.os",
    "getattr(torch, 'o' + 's')",
    "F.dataclasses",
    "nn.modules.module.warnings",
    "__import__('os')",
    "'{0.x}'.format(torch)",
]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(HONEST), st.sampled_from(HOSTILE), st.data())
def test_an_honest_module_with_one_hostile_expression_anywhere_is_refused(source: str, hostile: str, data):
    tree = ast.parse(source)
    places = [node for node in ast.walk(tree) if isinstance(node, ast.Expr | ast.Assign | ast.Return) and node.value]
    place = data.draw(st.sampled_from(places))
    place.value = ast.Tuple([place.value, ast.parse(hostile, mode="eval").body], ast.Load())
    assert isinstance(screen(ast.unparse(ast.fix_missing_locations(tree))), SourceRefusal)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_no_text_makes_the_screen_fail(source: str | bytes):
    assert isinstance(screen(source), SourceRefusal)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(HONEST), st.data())
def test_no_damage_to_a_source_makes_the_screen_fail(source: str, data):
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, min(len(source), start + 40)))
    middle = data.draw(st.text(alphabet="()[]{}:.,'\"\\\n\t #=*ab_0é\u202e\x00", max_size=12))
    assert isinstance(screen(source[:start] + middle + source[end:]), Screened | SourceRefusal)
