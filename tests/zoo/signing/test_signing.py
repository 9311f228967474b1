"""A signature holds for the very files of a bundle, all of them, and for nobody else's key; offline."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from model_signing import hashing, signing, verifying

import zoo
from zoo.cli import main
from zoo.errors import BundleError, ConfigError, PluginError

# model-signing and what it stands on warn of themselves when they are first imported
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Refuse every connection."""

    def refuse(*arguments):
        raise AssertionError(f"signing with a key asks the network for {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_keys(folder, name, curve=None):
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}-public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return write_keys(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["cat", "dog"]), weights=None)
    return model.save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def bundle(saved, tmp_path):
    """A bundle that is not signed."""
    shutil.copytree(saved, tmp_path / "home" / "bundle")
    return tmp_path / "home" / "bundle"


@pytest.fixture(scope="module")
def signed_once(saved, keys, tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "bundle"
    shutil.copytree(saved, path)
    zoo.sign(path, key=keys[0])
    return path


@pytest.fixture
def signed(signed_once, tmp_path):
    """A signed bundle, to spoil."""
    shutil.copytree(signed_once, tmp_path / "home" / "signed")
    return tmp_path / "home" / "signed"


def refused(path, key):
    """Verify a bundle that must be refused, and give the one sentence that says why."""
    report = zoo.verify(path, key=key)
    assert not report.ok
    assert report.signed is False
    assert len(report.problems) == 1
    assert "\n" not in report.problems[0]
    return report.problems[0]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_a_signed_bundle_is_verified_with_the_public_key(bundle, tmp_path, curve):
    private, public = write_keys(tmp_path, "own", curve)

    file = zoo.sign(bundle, key=private)

    assert file == bundle / "model.sig"
    assert json.loads(file.read_bytes())["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    report = zoo.verify(bundle, key=public)
    assert (report.ok, report.signed, report.extra) == (True, True, [])
    assert zoo.verify(bundle).signed is None
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]
    assert zoo.load(bundle).heads


def test_the_library_itself_accepts_the_signature_and_finds_every_file_in_it(signed, keys):
    config = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)

    verifying.Config().set_hashing_config(config).use_elliptic_key_verifier(public_key=keys[1]).verify(
        signed, signed / "model.sig"
    )

    told = {each.identifier for each in config.hash(signed).resource_descriptors()}
    assert told == {str(file.relative_to(signed)) for file in signed.rglob("*") if file.is_file()} - {"model.sig"}


def test_a_signature_that_is_missing_is_told(bundle, keys):
    assert "not signed: it has no model.sig" in refused(bundle, keys[1])


def test_a_signature_of_another_key_is_refused(signed, tmp_path):
    _, other = write_keys(tmp_path, "other")

    assert f"no signature of the key {other} that holds" in refused(signed, other)


def test_a_signature_over_other_bytes_is_refused(signed, keys):
    """The files and their manifest fit each other, as whoever changes them would see to it."""
    torch.manual_seed(1)
    model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["cat", "dog"]), weights=None)
    signature = (signed / "model.sig").read_bytes()
    model.save(signed, overwrite=True)
    assert not (signed / "model.sig").exists()
    (signed / "model.sig").write_bytes(signature)
    assert zoo.verify(signed).ok

    assert "is not what was signed" in refused(signed, keys[1])


@pytest.mark.parametrize("name", [".git/x", "extra.txt", ".gitattributes", ".github/x", "heads/extra.safetensors"])
def test_an_extra_file_is_refused_wherever_it_lies(signed, keys, name):
    (signed / name).parent.mkdir(exist_ok=True)
    (signed / name).write_text("x")

    assert f"{name!r}, which is not part of the bundle" in refused(signed, keys[1])


@pytest.mark.parametrize("name", ["config.json", "README.md", "zoo.json"])
def test_a_changed_file_is_refused(signed, keys, name):
    (signed / name).write_bytes((signed / name).read_bytes() + b" ")

    refused(signed, keys[1])


def test_every_damage_to_a_signature_is_refused(signed, keys):
    file = signed / "model.sig"
    data = file.read_bytes()
    for spoilt in (b"", b"{}", b"[]", b"\xff", data[:-1], data.replace(b'"sig"', b'"gis"'), b"[" * 5000, b'{"a":1}'):
        file.write_bytes(spoilt)
        refused(signed, keys[1])
    envelope = json.loads(data)
    sig = envelope["dsseEnvelope"]["signatures"][0]["sig"]
    envelope["dsseEnvelope"]["signatures"][0]["sig"] = sig[:20] + ("A" if sig[20] != "A" else "B") + sig[21:]
    file.write_text(json.dumps(envelope))
    refused(signed, keys[1])
    file.unlink()
    file.symlink_to(signed.parent / "elsewhere")
    refused(signed, keys[1])


@pytest.mark.parametrize("left_out", ["README.md", "config.json"])
def test_a_signature_that_leaves_files_out_is_refused(bundle, keys, left_out):
    """Whoever signs with the library may leave files out; such a signature does not cover the bundle."""
    config = hashing.Config().set_ignored_paths(paths=["model.sig", left_out], ignore_git_paths=False)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=keys[0]).sign(
        bundle, bundle / "model.sig"
    )

    assert f"does not cover {left_out!r}" in refused(bundle, keys[1])


def test_a_signature_of_the_library_over_all_files_is_accepted(bundle, keys):
    config = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=True)
    signing.Config().set_hashing_config(config).use_elliptic_key_signer(private_key=keys[0]).sign(
        bundle, bundle / "model.sig"
    )
    assert zoo.verify(bundle, key=keys[1]).signed

    (bundle / ".git").mkdir()
    (bundle / ".git" / "x").write_text("x")
    refused(bundle, keys[1])


def test_signing_again_replaces_the_signature_and_saving_again_drops_it(signed, tmp_path):
    private, public = write_keys(tmp_path, "second")

    zoo.sign(signed, key=private)
    assert zoo.verify(signed, key=public).signed
    zoo.load(signed).save(signed, overwrite=True)

    assert not (signed / "model.sig").exists()
    assert zoo.verify(signed).ok
    assert "not signed" in refused(signed, public)


def test_the_bundle_of_an_ensemble_is_signed_with_all_its_members(saved, keys, tmp_path):
    ensemble = zoo.ensemble({"a": saved, "b": saved})
    path = ensemble.save(tmp_path / "ensemble")
    zoo.sign(path, key=keys[0])
    assert zoo.verify(path, key=keys[1]).signed

    (path / "members" / "a" / "model.sig").write_text("x")
    refused(path, keys[1])


def test_what_is_not_well_is_not_signed_and_an_error_leaves_nothing(bundle, keys, monkeypatch):
    (bundle / "notes.txt").write_text("x")
    with pytest.raises(BundleError, match=r"not signed, because it is not well: .*notes\.txt"):
        zoo.sign(bundle, key=keys[0])
    (bundle / "notes.txt").unlink()
    monkeypatch.setattr("os.replace", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BundleError, match="No space left on device"):
        zoo.sign(bundle, key=keys[0])

    assert zoo.verify(bundle).ok
    assert not (bundle / "model.sig").exists()
    assert [entry.name for entry in bundle.parent.iterdir()] == ["bundle"]
    with pytest.raises(BundleError, match="no bundle"):
        zoo.sign(bundle.parent / "nothing", key=keys[0])


def test_a_bundle_that_is_replaced_while_it_is_signed_keeps_no_signature(bundle, keys, monkeypatch):
    from zoo.bundle import signing as room

    sign_folder = room.sign_folder

    def slow(*arguments, **options):
        sign_folder(*arguments, **options)
        zoo.build("timm:test_resnet", zoo.head("classifier", classes=["a", "b"]), weights=None).save(
            bundle, overwrite=True
        )

    monkeypatch.setattr(room, "sign_folder", slow)
    with pytest.raises(BundleError, match="replaced meanwhile"):
        zoo.sign(bundle, key=keys[0])

    assert zoo.verify(bundle).ok
    assert not (bundle / "model.sig").exists()


def test_keys_that_cannot_be_used_are_refused_with_what_to_do(bundle, keys, tmp_path):
    def write(name, key, lock=None):
        locked = BestAvailableEncryption(lock) if lock else NoEncryption()
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
        return tmp_path / name

    (tmp_path / "text.pem").write_text("no key")
    (tmp_path / "broken.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for file, words in [
        (tmp_path / "nothing.pem", "No such file"),
        (tmp_path / "text.pem", "openssl ecparam"),
        (tmp_path / "broken.pem", "openssl ecparam"),
        (keys[1], "no private key"),
        (write("rsa.pem", rsa.generate_private_key(65537, 2048)), "secp256r1"),
        (write("ed.pem", ed25519.Ed25519PrivateKey.generate()), "secp256r1"),
        (write("k1.pem", ec.generate_private_key(ec.SECP256K1())), "secp256r1"),
        (write("locked.pem", ec.generate_private_key(ec.SECP256R1()), b"secret"), "passphrase"),
    ]:
        with pytest.raises(ConfigError, match=words):
            zoo.sign(bundle, key=file)
    with pytest.raises(ConfigError, match="private key; a signature is checked with the public one"):
        zoo.verify(bundle, key=keys[0])
    with pytest.raises(ConfigError, match="no public key"):
        zoo.verify(bundle, key=tmp_path / "text.pem")


def test_it_must_be_said_whose_signature_is_meant(bundle, keys):
    with pytest.raises(ConfigError, match="keyless=True"):
        zoo.sign(bundle)
    with pytest.raises(ConfigError, match="keyless=True"):
        zoo.sign(bundle, key=keys[0], keyless=True)
    with pytest.raises(ConfigError, match="both identity and issuer"):
        zoo.verify(bundle, identity="a@example.org")
    with pytest.raises(ConfigError, match="give one of them"):
        zoo.verify(bundle, key=keys[1], identity="a@example.org", issuer="https://accounts.example.org")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_a_network_the_keyless_way_is_refused_in_one_sentence(bundle, signed, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):  # where sigstore keeps what it fetched
        monkeypatch.setenv(name, str(tmp_path / "empty"))

    with pytest.raises(BundleError, match=r"^[^\n]* cannot be signed: [^\n]*\.$"):
        zoo.sign(bundle, keyless=True)
    assert not (bundle / "model.sig").exists()
    report = zoo.verify(signed, identity="a@example.org", issuer="https://accounts.example.org")

    assert report.signed is False
    assert "no signature of a@example.org by https://accounts.example.org that holds" in report.problems[0]


def test_without_the_extra_one_sentence_has_the_command(bundle, keys, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "model_signing", None)

    for call in (lambda: zoo.sign(bundle, key=keys[0]), lambda: zoo.verify(bundle, key=keys[1])):
        with pytest.raises(PluginError, match=r"pip install 'headzoo\[signing\]'"):
            call()
    assert zoo.verify(bundle).ok


@pytest.mark.slow
def test_verifying_without_a_signature_imports_no_library_for_it(bundle):
    code = f"import sys, zoo; assert zoo.verify({str(bundle)!r}).ok; print('model_signing' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False"]


def test_the_commands_sign_and_verify(bundle, keys, capsys):
    assert main(["verify", str(bundle), "--key", str(keys[1])]) == 1
    assert "not signed" in capsys.readouterr().out
    assert main(["sign", str(bundle), "--key", str(keys[0])]) == 0
    assert capsys.readouterr().out == f"signed: {bundle / 'model.sig'}\n"
    assert main(["verify", str(bundle), "--key", str(keys[1])]) == 0
    assert ": ok, signed, id " in capsys.readouterr().out
    assert main(["verify", str(bundle), "--key", str(keys[1]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed"] is True
    for wrong in (["sign", str(bundle)], ["verify", str(bundle), "--identity", "a@example.org"]):
        assert main(wrong) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
