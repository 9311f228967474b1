"""Every example on every page runs as it stands.

The blocks of a page run in their order in one namespace and one folder, Python and command line alike. A comment in
front of a block says otherwise::

    <!-- needs: network -->           compiled, or parsed, and not run
    <!-- from: tests/path/to.py -->   an excerpt, which stands in that file word for word
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from zoo.chaining.recipe import read_chain
from zoo.cli import main
from zoo.cli.app import app
from zoo.cli.runfile import read_run
from zoo.cli.searching import read_space_file

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (needs|from): (\S+) -->\n\Z")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    mark: str
    value: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        mark = MARK.search(text[: found.start()])
        line = text.count("\n", 0, found.start()) + 1
        yield Block(found[1], found[2], line, *(mark.groups() if mark else ("", "")))


def commands(block: Block) -> list[list[str]]:
    """Give the zoo commands of a shell block; an option may go on after a backslash."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("zoo ")]


def parses(command: list[str]) -> bool:
    """Read a command's arguments without running it; an unknown option raises."""
    group = typer.main.get_command(app)
    name, *rest = command
    group.commands[name].make_context(name, rest)
    return True


EXAMPLES = [page for page in PAGES if any(block.language in ("python", "sh") for block in blocks(page))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


QUICK = {"README.md", "docs/how-to/write-a-plugin.md", "docs/reference/references.md"}
"""Pages whose examples take no time, or that are read first."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if name_of(page) in QUICK else pytest.mark.slow, id=name_of(page))
        for page in EXAMPLES
    ],
)
def test_the_examples_of_a_page_run_as_they_stand(page, workplace):
    namespace = {"__name__": "example"}
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        if block.mark == "from":
            assert block.text.strip("\n") in (ROOT / block.value).read_text("utf-8"), where
        elif block.language == "python":
            code = compile(block.text, where, "exec")
            if block.mark != "needs":
                exec(code, namespace)
        elif block.language == "yaml":
            kinds = {"steps:": ("chain.yaml", read_chain), "stages:": ("space.yaml", read_space_file)}
            file, read = next((kinds[key] for key in kinds if key in block.text), ("run.yaml", read_run))
            (workplace / file).write_text(block.text)
            assert read(workplace / file), where
        elif block.language == "sh":
            for command in commands(block):
                assert parses(command), where
                if block.mark != "needs":
                    assert main(command) == 0, (where, command)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is_and_every_mark_is_known(page):
    for block in blocks(page):
        assert block.language in ("python", "sh", "text", "toml", "json", "csv", "yaml"), block.line
        assert (block.mark, block.value) in (("", ""), ("needs", "network")) or block.mark == "from", block.line

    text = page.read_text("utf-8")
    assert text.count("<!-- ") == sum(bool(block.mark) for block in blocks(page))
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(list(blocks(page)))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_no_machine_and_no_package_index(page):
    text = page.read_text("utf-8")

    assert not re.search(r"/(?:home|work|tmp|root|Users)/|localhost|\d+\.\d+\.\d+\.\d+", text)
    assert not re.search(r"pypi\.org|pythonhosted", text)
