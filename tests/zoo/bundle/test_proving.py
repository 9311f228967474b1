"""What is saved is proven to load again: once for each structure, and again as soon as anything of it differs."""

import pytest
import torch
from torch import nn

import zoo
from zoo.bundle import proving
from zoo.errors import BundleError


@pytest.fixture
def rebuilds(monkeypatch):
    """Count the rebuilds, in a process that has proven nothing."""
    monkeypatch.setattr(proving, "_proven", type(proving._proven)())
    found = []
    inner = proving.rebuild
    monkeypatch.setattr(proving, "rebuild", lambda *args, **given: found.append(1) or inner(*args, **given))
    return found


def test_a_structure_is_rebuilt_by_its_first_save_and_its_later_ones_load_the_same(make, tmp_path, rebuilds):
    model = make.tiny()
    model.save(tmp_path / "first", probe=False)
    with torch.no_grad():
        next(model.heads.parameters()).add_(1)
    model.save(tmp_path / "second", probe=False)

    assert len(rebuilds) == 1
    loaded = zoo.load(tmp_path / "second").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in model.state_dict().items())


def test_a_probe_is_always_of_the_rebuilt_model(make, tmp_path, rebuilds):
    model = make.tiny()
    model.save(tmp_path / "first", probe=False)
    model.save(tmp_path / "second")

    assert len(rebuilds) == 2
    assert zoo.verify(tmp_path / "second", run=True).ok


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.heads["pet"], "layers", nn.Linear(4, 3)),
        lambda model: setattr(model.heads["pet"], "more", nn.Linear(4, 3)),
        lambda model: delattr(model.heads["pet"], "layers"),
    ],
    ids=["shape", "more", "less"],
)
def test_a_structure_that_cannot_be_rebuilt_is_refused_after_others_were_proven(make, tmp_path, rebuilds, change):
    model = make.tiny()
    model.save(tmp_path / "good", probe=False)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    change(model)

    for _ in range(2):
        with pytest.raises(BundleError, match=r"cannot be rebuilt.*heads/pet"):
            model.save(tmp_path / "bad", probe=False)
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.half(),
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.heads["pet"].register_buffer("layers_", None),
        lambda model: model.backbones["main"].__dict__.update(native_files=lambda: {"config.json": {"kind": "other"}}),
    ],
    ids=["dtype", "layout", "nothing", "files"],
)
def test_what_a_rebuild_depends_on_is_what_asks_for_another(make, tmp_path, rebuilds, change, request):
    model = make.tiny()
    model.save(tmp_path / "first", probe=False)
    change(model)
    model.save(tmp_path / "second", probe=False)

    assert len(rebuilds) == (1 if "nothing" in request.node.callspec.id else 2)


def test_other_plugins_prove_anew(make, tmp_path, rebuilds, monkeypatch):
    model = make.tiny()
    model.save(tmp_path / "first", probe=False)
    proving._proven.update(dict.fromkeys(proving._proven, object()))
    model.save(tmp_path / "second", probe=False)

    assert len(rebuilds) == 2


def test_no_more_structures_are_remembered_than_a_process_can_afford(make, tmp_path, rebuilds, monkeypatch):
    monkeypatch.setattr(proving, "MOST", 1)
    one, other = make.tiny(), make.tiny().half()
    for number, model in enumerate([one, other, one]):
        model.save(tmp_path / str(number), probe=False)

    assert len(rebuilds) == 3
    assert len(proving._proven) == 1
