"""Models that round to eight bits: against closed forms, torchao, ONNX Runtime, and themselves after a bundle."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch

import zoo
from zoo.bundle.probe import compare, make_probe
from zoo.contracts.rounding import integers, rounding_of, scale_and_zero
from zoo.data import Column, Table, TensorSample
from zoo.errors import ConfigError, UnknownName


def made_up(rows=24, side=32):
    noise = torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(0))
    samples = tuple(TensorSample(f"picture {n}", one + 1.5 * (n % 2)) for n, one in enumerate(noise))
    return Table(
        "made-up", {"image": samples}, {"kind": Column("kind", "text", tuple("ab"[n % 2] for n in range(rows)))}
    )


def built(backbone="timm:test_resnet", **options):
    head = zoo.head("classifier", name="kind", classes=["a", "b"], norm=True)
    return zoo.build(backbone, head, weights=None, seed=0, **options)


def pictures(rows=4, side=32):
    return torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(1))


def rounding(model):
    return rounding_of(model.backbones["main"])


def test_a_weight_has_the_integers_of_the_papers_formula():
    weight = torch.tensor([[1.0, -0.5, 0.26], [0.0, 0.2, -0.04]])

    whole, steps = integers(weight)

    expected = np.round(weight.numpy() / np.array([[1 / 127], [0.2 / 127]]))
    assert whole.numpy().tolist() == expected.tolist()
    torch.testing.assert_close(steps, torch.tensor([1 / 127, 0.2 / 127]))


@pytest.mark.parametrize("bounds", [(-1.0, 2.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)])
def test_zero_is_hit_exactly_and_both_ends_are_within_half_a_step(bounds):
    scale, zero = scale_and_zero(torch.tensor(bounds))

    low, high = min(bounds[0], 0), max(bounds[1], 0)
    assert -128 <= int(zero) <= 127
    assert float(scale) == pytest.approx(max((high - low) / 255, 2**-23), rel=1e-6)
    assert abs((-128 - int(zero)) * float(scale) - low) <= float(scale) / 2 + 1e-6


def test_rounding_before_a_norm_is_folded_gives_the_integers_of_rounding_afterwards():
    weight = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    factor = torch.tensor([0.1, -2.0, 3.0, -0.5, 1.0, 7.0, -1.0, 0.01])

    before, _ = integers(weight)
    after, _ = integers(weight * factor.view(-1, 1, 1, 1))

    assert torch.equal(before * factor.sign().to(torch.int8).view(-1, 1, 1, 1), after)


@pytest.mark.parametrize("backbone", ["timm:test_resnet", "timm:test_efficientnet"])
def test_a_quantized_model_stays_near_itself_and_keeps_its_parameters(backbone):
    model, x = built(backbone), pictures()
    parameters = {name: (one, one.detach().clone()) for name, one in model.named_parameters()}
    expected = model(x)["kind"]

    report = zoo.quantize(model, made_up())
    got = model(x)["kind"]

    assert (report.left, report.rows) == ((), 24)
    assert min(report.layers / 10, report.weights / 0.9) > 1
    assert not torch.equal(got, expected)
    assert (got - expected).norm() < 0.1 * expected.norm()
    now = dict(model.named_parameters())
    assert all(now[name] is one and torch.equal(one, was) for name, (one, was) in parameters.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:XNNPACKQuantizer is deprecated")
def test_the_integers_are_those_of_pt2e_and_so_is_what_they_compute():
    """torchao folds the norms first and rounds then, in a graph of its own."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    model, x = built(), pictures(16)
    native, dice = model.backbones["main"].native, torch.Generator().manual_seed(2)
    norms = [one for one in native.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    for norm in norms:
        with torch.no_grad():
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=dice) + 0.5)
            norm.running_mean.copy_(torch.randn(norm.weight.shape, generator=dice) / 10)
    exact = model.backbones["main"](x).pooled.detach()
    graph = torch.export.export(native.eval(), (x,)).module()
    prepared = prepare_pt2e(
        graph, XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    )
    prepared(x)
    converted = convert_pt2e(prepared)
    theirs = converted(x).detach().reshape(exact.shape)
    data = Table("pictures", {"image": tuple(TensorSample(str(n), one) for n, one in enumerate(x))}, {})

    zoo.quantize(model, data)
    ours = model.backbones["main"](x).pooled.detach()

    whole = [one for name, one in converted.named_buffers() if one.dtype == torch.int8]
    layers = [one for one in native.modules() if isinstance(one, torch.nn.Conv2d)]
    assert len(whole) == len(layers) == len(norms) > 10
    unmatched = [integers(layer.weight)[0] for layer in layers]
    for theirs_whole in whole:  # in the order in which their graph runs
        found = [
            n
            for n, mine in enumerate(unmatched)
            if mine.shape == theirs_whole.shape and torch.equal(mine, theirs_whole)
        ]
        assert found
        unmatched.pop(found[0])
    assert unmatched == []
    far = (theirs - exact).norm() / exact.norm()
    assert 0 < (ours - exact).norm() / exact.norm() <= 1.25 * far < 0.1
    assert (ours - theirs).norm() / exact.norm() < 1.5 * far


@pytest.mark.slow
def test_of_rows_that_lie_sorted_by_class_all_classes_are_looked_at():
    def sorted_rows(darker):
        noise = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        samples = tuple(TensorSample(f"{n}", one + 9 * (n >= 20) * darker) for n, one in enumerate(noise))
        return Table("sorted", {"image": samples}, {"kind": Column("kind", "text", tuple("a" * 20 + "b" * 20))})

    largest = []
    for darker in (0, 1):
        model = built()
        assert zoo.quantize(model, sorted_rows(darker), calibration_rows=8).rows == 8
        largest.append(float(rounding(model).ranges[0, 1]))
    assert largest[1] > largest[0] + 5


@pytest.mark.slow
def test_observers_and_rows_change_the_ranges():
    found = {}
    for name, options in {"plain": {}, "histogram": {"observer": "histogram"}, "few": {"calibration_rows": 1}}.items():
        model = built()
        report = zoo.quantize(model, made_up(rows=40), **options)
        found[name] = rounding(model).ranges.clone()
        assert report.rows == (1 if name == "few" else 40)
        assert model.spec.streams["main"].backbone.quantized.observer == options.get("observer", "minmax")

    assert not torch.equal(found["plain"], found["histogram"])
    assert not torch.equal(found["plain"], found["few"])
    span = {name: (one[:, 1] - one[:, 0]).sum() for name, one in found.items()}
    assert max(span["histogram"], span["few"]) < span["plain"]


def test_only_the_named_streams_round():
    head = zoo.head("classifier", name="kind", classes=["a", "b"], stream="right")
    model = zoo.build({"left": "timm:test_resnet", "right": "timm:test_efficientnet"}, head, weights=None, seed=0,
                      inputs="image")  # fmt: skip

    zoo.quantize(model, made_up(), streams=["right"])

    assert rounding_of(model.backbones["left"]) is None
    assert rounding_of(model.backbones["right"]) is not None
    assert model.spec.streams["left"].backbone.quantized is None


@pytest.mark.slow
def test_a_bundle_gives_the_same_bits_in_a_process_without_torchao(tmp_path):
    model, x = built("timm:test_efficientnet"), pictures()
    zoo.quantize(model, made_up())
    model.save(tmp_path / "int8")
    torch.save((x, model(x)["kind"]), tmp_path / "expected.pt")

    code = (
        "import sys, torch; sys.modules['torchao'] = None; import zoo\n"
        f"x, expected = torch.load({str(tmp_path / 'expected.pt')!r}); model = zoo.load({str(tmp_path / 'int8')!r})\n"
        "assert torch.equal(model(x)['kind'], expected)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    manifest = (tmp_path / "int8" / "zoo.json").read_text()
    assert '"min_reader":"1.2"' in manifest.replace(" ", "")


@pytest.mark.slow
def test_the_probe_holds_where_a_processor_sums_in_another_order():
    """In single precision a last bit decides here and there to which of two neighbours a number is rounded."""
    head = zoo.head("classifier", name="kind", classes=["a", "b"], norm=True)
    model = zoo.build("pypi:efficientnet_lite0", head, seed=0)
    zoo.quantize(model, made_up(rows=8, side=224))
    picture = pictures(1, 224)
    with torch.inference_mode():
        expected = model(picture)["kind"]
    probe = make_probe(copy.deepcopy(model))

    def another_order(module, args, given):
        more = torch.rand(given.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        return torch.where(more, torch.nextafter(given, torch.full_like(given, torch.inf)), given)

    for layer in model.backbones.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(another_order)
    with torch.inference_mode():
        other = model(picture)["kind"]

    assert (other - expected).abs().max() > 1e-3, "nothing is rounded to another neighbour here"
    assert probe.outputs["kind"].tolerance <= 1e-4
    assert compare(model, probe)["kind"] < 1e-6


@pytest.mark.slow
def test_the_onnx_file_has_integers_and_gives_what_torch_gives(tmp_path):
    import onnx
    import onnxruntime

    model = built("timm:test_efficientnet")
    side = model.spec.streams["main"].backbone.preprocessing.size[0]
    zoo.fit(model, made_up(side=side), epochs=1, batch_size=8, progress=False)  # norms that are not those of the start
    zoo.export(model, tmp_path / "float", layout="onnx")
    zoo.quantize(model, made_up(side=side))
    zoo.export(model, tmp_path / "int8", layout="onnx")

    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    wholes = [node for node in graph.node if node.op_type == "DequantizeLinear" and kinds.get(node.input[0]) == 3]
    assert len(wholes) == sum(node.op_type == "Conv" for node in graph.node) == 17
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("float", "int8")]
    assert sizes[1] < 0.5 * sizes[0]
    x = pictures(32, side)
    session = onnxruntime.InferenceSession(tmp_path / "int8" / "model.onnx", providers=["CPUExecutionProvider"])
    (theirs,) = session.run(["kind"], {session.get_inputs()[0].name: x.numpy()})
    ours = model(x)["kind"].detach().numpy()
    assert np.linalg.norm(theirs - ours) < 0.05 * np.linalg.norm(ours)
    assert (theirs.argmax(1) == ours.argmax(1)).mean() >= 0.95


@pytest.mark.slow
def test_a_copy_and_a_pickle_round_as_the_model_does():
    import copy
    import pickle

    model, x = built(), pictures()
    zoo.quantize(model, made_up())

    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x)["kind"], model(x)["kind"])
        rounding(other).ranges.zero_()
        assert not torch.equal(other(x)["kind"], model(x)["kind"])


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"observer": "best"}, ConfigError, "observer must be one of minmax, histogram"),
        ({"calibration_rows": 0}, ConfigError, "calibration_rows must be a whole number"),
        ({"streams": ["other"]}, UnknownName, "no stream 'other'"),
        ({"streams": []}, ConfigError, "streams must be a list"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(options, error, says):
    model = built()

    with pytest.raises(error, match=says):
        zoo.quantize(model, made_up(), **options)
    assert rounding(model) is None


def test_a_model_in_half_precision_is_refused():
    with pytest.raises(ConfigError, match=r"model\.float\(\)"):
        zoo.quantize(built().half(), made_up())


def test_pruning_widths_of_a_quantized_model_is_refused():
    model = built()
    zoo.quantize(model, made_up())

    with pytest.raises(ConfigError, match="prune the float model first"):
        zoo.prune(model, macs=0.5)


def test_without_torchao_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e", None)

    with pytest.raises(zoo.PluginError, match=r"headzoo\[quantization\]"):
        zoo.quantize(built(), made_up())


@pytest.mark.slow
def test_a_chain_and_the_command_line_quantize(tmp_path, capsys):
    from PIL import Image

    from zoo.cli.app import run

    for number in range(20):
        kind = tmp_path / "photos" / "ab"[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (200 * (number % 2), number, 0)).save(kind / f"{number}.png")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {tmp_path / 'photos'}\nmodel: {{backbone: 'timm:test_resnet', weights: none}}\n"
        "steps:\n- {name: train, fit: {epochs: 1}}\n- {name: int8, quantize: {observer: minmax, calibration_rows: 4}}\n"
    )
    zoo.chain(recipe, tmp_path / "chain")
    (bundle,) = [path.parent for path in (tmp_path / "chain").rglob("zoo.json") if "int8" in path.parent.name]
    assert zoo.load(bundle).spec.streams["main"].backbone.quantized.observer == "minmax"

    out = str(tmp_path / "again")
    code = run(["quantize", str(bundle), str(tmp_path / "photos"), "--observer", "histogram", "--out", out])
    assert code in (0, None)
    assert "quantized" in capsys.readouterr().out
    assert zoo.load(out).spec.streams["main"].backbone.quantized.observer == "histogram"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["by hand", "lora"])
def test_adapters_on_integers_are_refused_with_what_to_do(how):
    model = built("timm:test_vit?img_size=32")
    zoo.quantize(model, made_up())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def adapt():
        if how == "by hand":
            model.add_adapters(rank=2)
        else:
            zoo.fit(model, made_up(), method=how, epochs=1, batch_size=8, device="cpu")

    with pytest.raises(ConfigError, match="is quantized, and adapters add to layers in float; put them on the float"):
        adapt()

    now = model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


@pytest.mark.slow
def test_a_delta_of_a_model_that_rounds_is_small_and_gives_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_STORE", str(tmp_path / "store"))
    model, x = built(), pictures()
    base = model.save(tmp_path / "base")
    zoo.quantize(model, made_up())
    model.save(tmp_path / "delta", kind="delta", base=base)

    assert torch.equal(zoo.load(tmp_path / "delta")(x)["kind"], model(x)["kind"])
    assert zoo.verify(tmp_path / "delta", run=True).problems == []
    weights = [one.stat().st_size for one in (tmp_path / "delta" / "backbones").rglob("*.safetensors")]
    assert sum(weights) < 0.02 * (base / "backbones" / "main" / "model.safetensors").stat().st_size
