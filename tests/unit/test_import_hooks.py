"""Callbacks after an import run once, on the complete module, however it is imported."""

import importlib
import importlib.util
import sys

import pytest

from recipe.prepo.import_hooks import after_import


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(folder, name, text="VALUE = 1\n"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


def test_called_once_in_order_after_a_later_import_and_at_once_for_an_imported_module(folder):
    write(folder, "hooked/__init__", "")
    write(folder, "hooked/later")
    seen = []
    after_import("hooked.later", lambda module: setattr(module, "VALUE", module.VALUE + 1))
    after_import("hooked.later", lambda module: seen.append(module.VALUE))
    assert "hooked" not in sys.modules  # nor is its package imported early
    assert importlib.util.find_spec("hooked.later") is not None  # as libraries probe for optional modules
    assert seen == []
    for _ in range(2):
        assert importlib.import_module("hooked.later").VALUE == 2
    assert seen == [2]
    after_import("hooked.later", lambda module: seen.append(module.VALUE))
    assert seen == [2, 2]


@pytest.mark.parametrize("text", [None, "raise ImportError('not yet')\n"])
def test_import_that_fails_first_keeps_the_callback(text, folder):
    if text:
        write(folder, "hooked_failing", text)
    seen = []
    after_import("hooked_failing", seen.append)
    with pytest.raises(ImportError, match="not yet" if text else "No module named"):
        importlib.import_module("hooked_failing")
    write(folder, "hooked_failing", "FIXED = True\n")
    assert [importlib.import_module("hooked_failing")] == seen


def test_failing_callback_reaches_every_importer(folder):
    """A module without its change must not slip in on the second try."""
    write(folder, "hooked_refused")

    def refuse(_module):
        raise RuntimeError("cannot patch this module")

    after_import("hooked_refused", refuse)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="cannot patch"):
            importlib.import_module("hooked_refused")
