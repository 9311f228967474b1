"""The names in ``zoo``: complete, sorted, importable, documented, and cheap to import."""

import ast
import inspect
import re
import subprocess
import sys
import types

import pytest

import zoo

FUNCTIONS = [name for name in zoo.__all__ if inspect.isfunction(getattr(zoo, name))]
CLASSES = [name for name in zoo.__all__ if inspect.isclass(getattr(zoo, name))]


def test_all_is_sorted_and_every_name_can_be_imported():
    found = {name: getattr(zoo, name) for name in zoo.__all__}

    assert zoo.__all__ == sorted(found)
    assert set(zoo.__all__) <= set(dir(zoo))


def test_type_checkers_see_the_names_that_there_are(root):
    tree = ast.parse((root / "zoo" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        alias.asname: (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == zoo._FACE


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        zoo.bild  # noqa: B018


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_class_has_a_docstring_of_its_own(name):
    assert vars(getattr(zoo, name)).get("__doc__"), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_args_section_of_every_public_function_names_exactly_its_parameters(name):
    function = getattr(zoo, name)
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n((?: {4,}.*\n?|\n)+)", text, re.MULTILINE)
    told = re.findall(r"^ {4}(\w+):", section[1], re.MULTILINE) if section else []

    assert text
    assert told == list(inspect.signature(function).parameters)


def test_what_is_neither_function_nor_class_is_known():
    others = {name for name in zoo.__all__ if name not in (*FUNCTIONS, *CLASSES)}

    assert others == {"Label", "hookimpl"}
    assert not [name for name in others if isinstance(getattr(zoo, name), types.ModuleType)]


def test_importing_listing_and_resolving_import_no_torch_and_no_provider(project):
    packages = sorted(project["project"]["entry-points"]["zoo"].values())
    code = f"""
import sys
import zoo
told = sorted(name for name in sys.modules if name.startswith("zoo"))
zoo.list("mobilenet*")
zoo.resolve("timm:mobilenetv3")
heavy = {{"torch", "timm", "torchvision", "transformers", *{packages}}}
print(told, sorted(heavy & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[-2] == "['zoo'] []"
