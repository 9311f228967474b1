"""Bundles of someone who means harm: nothing of them runs, nothing is fetched, nothing else is opened or imported."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

pytestmark = pytest.mark.slow

WATCHING = Path(__file__).with_name("watching.py")
attacking = runpy.run_path(str(Path(__file__).with_name("attacking.py")))
ATTACKS = attacking["ATTACKS"]


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Load every bundle in one child process that listens; its report, and whether any code of a bundle ran."""
    folder = tmp_path_factory.mktemp("hostile")
    home, sentinel = folder / "bundles", folder / "sentinel"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CACHE", str(folder / "own"))
        patch.setenv("ZOO_STORE", str(folder / "store"))
        home.mkdir()
        bundles = attacking["saved"](attacking["honest"](folder), home)
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    (folder / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for base, attacks in ATTACKS.items():
        for name, attack in attacks.items():
            target = home / f"{base}+{name}"
            shutil.copytree(bundles[base], target, symlinks=True)
            attack(target, sentinel)
    for name in ("cache", "temporary", "work", "hub"):
        (folder / name).mkdir()
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")}
    places = {
        "ZOO_CACHE": folder / "cache",
        "ZOO_STORE": folder / "store",
        "KEY": folder / "key.pem",
        "TMPDIR": folder / "temporary",
        "HF_HOME": folder / "hub",
    }
    done = subprocess.run(
        [sys.executable, str(WATCHING), str(home), str(folder / "report.json")],
        env={**kept, **{key: str(place) for key, place in places.items()}},
        cwd=folder / "work",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "report.json").read_text()), sentinel.exists()


def of(report):
    """Give what was heard of the attacks."""
    return {name: found for name, found in report.items() if "+" in name}


def honest_of(report):
    return {name: found for name, found in report.items() if name.startswith("honest-")}


def test_there_are_attacks_enough():
    assert sum(map(len, ATTACKS.values())) >= 60


def test_no_code_of_a_bundle_runs(heard):
    _, ran = heard

    assert not ran


def test_a_load_ends_in_an_error_of_zoo_or_in_the_honest_model(heard):
    report, _ = heard
    wrong = {name: found["escaped"] for name, found in of(report).items() if not (found["error"] or found["same"])}

    assert wrong == {}
    assert {name: found["escaped"] for name, found in of(report).items() if found["escaped"]} == {}


def test_a_signature_that_the_key_did_not_make_is_told(heard):
    report, _ = heard
    forged = {name: found["signature"] for name, found in of(report).items() if name.startswith("signed+")}

    assert len(forged) == len(ATTACKS["signed"])
    assert {name: told for name, told in forged.items() if len(told) != 1 or "\n" in told[0]} == {}


def test_no_socket_no_process_no_library_and_no_file_outside(heard):
    report, _ = heard

    assert {name: found["heard"] for name, found in of(report).items() if found["heard"]} == {}
    assert {name: found["heard"] for name, found in honest_of(report).items() if found["heard"]} == {}


def test_what_libraries_do_at_their_first_use_needs_no_network_and_no_process(heard):
    report, _ = heard

    assert not [
        entry for entry in report["first"] if entry[0].startswith(("socket.c", "socket.g", "socket.s", "subpro"))
    ]


def explained(module):
    """Say whether a module belongs to Python, to zoo, or to the libraries of the plugins that the bundles name."""
    top = module.partition(".")[0]
    ours = {
        "zoo",
        "zoo_timm",
        "zoo_huggingface",
        "zoo_pypi",
        "zoo_heads",
        "peft",
        "timm",
        "transformers",
        "torch",
        "torchvision",
    }
    return top in sys.stdlib_module_names or top in ours


def test_hostile_bundles_import_nothing_that_their_plugins_do_not_explain(heard):
    report, _ = heard
    strange = {name: [m for m in found["imports"] if not explained(m)] for name, found in of(report).items()}

    assert {name: modules for name, modules in strange.items() if modules} == {}


def test_honest_bundles_import_no_plugin_that_they_do_not_name(heard):
    report, _ = heard
    first = set(report["modules"])

    assert {"zoo_timm", "zoo_huggingface", "zoo_heads"} <= first
    assert first.isdisjoint({"zoo_torchvision", "zoo_pypi", "zoo_methods"})
    assert not [module for found in honest_of(report).values() for module in found["imports"] if not explained(module)]


def test_the_honest_ones_load_and_are_well(heard):
    report, _ = heard

    assert len(honest_of(report)) == len(ATTACKS)
    for found in honest_of(report).values():
        assert found["error"] is None
        assert found["verified"] == found["ran"] == []


def test_what_is_printed_of_them_holds_no_control_character(heard):
    report, _ = heard
    for found in [*of(report).values(), *honest_of(report).values()]:
        for shown in found["shown"].values():
            assert shown["code"] in (0, 1, 2)
            assert shown["printed"].replace("\n", "").isprintable() or not _raw(shown["printed"])


def _raw(text):
    return [letter for letter in text if (ord(letter) < 32 and letter != "\n") or 127 <= ord(letter) < 160]
