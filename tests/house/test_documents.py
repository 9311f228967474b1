"""README, changelog, licence and the page of hooks say what is true of the code."""

import inspect
import re

import pytest

import zoo
from zoo.hooks import ZooHooks

HOOKS = [name for name, value in vars(ZooHooks).items() if inspect.isfunction(value)]


def test_the_readme_is_no_longer_than_120_lines(root):
    assert 20 < len((root / "README.md").read_text("utf-8").splitlines()) <= 120


def test_every_page_is_in_the_index_under_its_title_and_no_other(root):
    docs = root / "docs"
    links = re.findall(r"\[([^]]+)\]\(([^)#]+\.md)\)", (docs / "README.md").read_text("utf-8"))
    pages = {str(page.relative_to(docs)): page for page in docs.rglob("*.md") if page != docs / "README.md"}

    assert sorted(link for _, link in links) == sorted(pages)
    guides = {link: text for text, link in links if link.startswith("how-to/")}
    assert guides == {link: pages[link].read_text("utf-8").partition("\n")[0].removeprefix("# ") for link in guides}


def test_the_licence_is_the_whole_of_apache_2(root):
    text = (root / "LICENSE").read_text("utf-8")

    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert [f"{number}. " for number in range(1, 10) if f"\n   {number}. " not in text] == []


def test_the_changelog_names_the_version(root, project):
    version = project["project"]["version"]

    assert zoo.__version__ == version
    assert re.search(rf"^## \[{re.escape(version)}\]", (root / "docs/changelog.md").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_under_its_signature(root, hook):
    page = (root / "docs/reference/plugin-hooks.md").read_text("utf-8")
    arguments = [name for name in inspect.signature(getattr(ZooHooks, hook)).parameters if name != "self"]

    assert f"\n## `{hook}({', '.join(arguments)})`\n" in page


def test_the_page_of_hooks_documents_no_other(root):
    page = (root / "docs/reference/plugin-hooks.md").read_text("utf-8")

    assert re.findall(r"^## `(\w+)\(", page, re.MULTILINE) == HOOKS


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(root, hook):
    tests = [path.read_text("utf-8") for path in (root / "tests").rglob("test_*.py")]

    assert any(re.search(rf"^def test_hook_{hook}\(", text, re.MULTILINE) for text in tests)


def test_every_command_of_make_that_a_page_names_exists(root):
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"`make ([a-z]+)`", page.read_text("utf-8"))}

    assert {"demo", "test", "quick"} <= named <= targets


def test_the_page_of_the_design_gives_the_order_that_the_import_contract_holds(root, project):
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    order = ", ".join(layer.replace(" : ", " and ") for layer in layers)
    page = " ".join((root / "docs/explanation/design.md").read_text("utf-8").split())

    assert f"from no other: {order}." in page
