"""The long way: learnt without labels, tuned, distilled, pruned, trained for integers, exported; and killed on it."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

import zoo

RUN = {"batch_size": 8, "device": "cpu", "lr": 0.01}
STEPS = [
    {
        "name": "pretrain",
        "fit": {
            **RUN,
            "method": "self_supervised",
            "epochs": 1,
            "settings": {"how": "simsiam", "hidden": 32, "projection": 16},
        },
    },
    {
        "name": "tune",
        "fit": {**RUN, "method": "gradual_unfreezing", "epochs": 3, "settings": {"epochs_per_step": 1}},
    },
    {
        "name": "student",
        "build": {"backbone": "timm:test_efficientnet?img_size=32", "weights": "none"},
        "fit": {
            **RUN,
            "method": "distillation",
            "epochs": 4,
            "settings": {"teacher": "step:tune", "backbone_lr_scale": 1.0},
        },
    },
    {"name": "narrow", "prune": {"macs": 0.8, "multiple_of": 1}},
    {
        "name": "eight-bit",
        "fit": {**RUN, "method": "quantization", "epochs": 2, "settings": {"backbone_lr_scale": 1.0}},
    },
    {"name": "file", "export": {"layout": "onnx"}},
]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    noise = np.random.default_rng(0)
    for number in range(60):
        kind = ("cat", "dog")[number % 2]
        (tmp_path / "pets" / kind).mkdir(parents=True, exist_ok=True)
        pixels = noise.integers(0, 150, (32, 32, 3)) + 90 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pets" / kind / f"{number}.png")
    path = tmp_path / "chain.yaml"
    model = {"backbone": "timm:test_resnet?img_size=32", "weights": "none"}
    path.write_text(yaml.safe_dump({"data": str(tmp_path / "pets"), "model": model, "steps": STEPS}))
    return path


@pytest.mark.slow
def test_from_loose_pictures_to_integers_in_a_file_and_on_from_where_it_was_killed(recipe, tmp_path, monkeypatch):
    whole = zoo.chain(recipe, tmp_path / "whole")
    fit = zoo.fit

    def dying(model, rows, **options):
        if options["method"] == "quantization":
            fit(model, rows, **options | {"epochs": 2})
            raise KeyboardInterrupt
        return fit(model, rows, **options)

    monkeypatch.setattr(zoo, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        zoo.chain(recipe, tmp_path / "out")
    monkeypatch.setattr(zoo, "fit", fit)
    again = zoo.chain(recipe, tmp_path / "out")

    assert [row.act for row in again.rows] == [
        "fit (self_supervised)",
        "fit (gradual_unfreezing)",
        "fit (distillation)",
        "prune",
        "fit (quantization)",
        "export",
    ]
    assert [row.metrics for row in again.rows] == [row.metrics for row in whole.rows]
    assert all(torch.equal(again.model.state_dict()[n], t) for n, t in whole.model.state_dict().items())
    # Pictures this easy are learnt on the way, by the first network, and by the small one of its answers.
    tuned, student, narrow, rounded = again.rows[1:5]
    name = next(key for key in tuned.metrics if key.endswith("/accuracy"))
    assert min(tuned.metrics[name], student.metrics[name], rounded.metrics[name]) >= 0.9
    assert student.parameters < tuned.parameters
    assert narrow.parameters == rounded.parameters < student.parameters

    # What runs at last is integers, and says what the model in torch says.
    path = tmp_path / "out" / "06-file" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = json.loads(session.get_modelmeta().custom_metadata_map["zoo"])
    model = again.model.eval()
    rows = zoo.read(tmp_path / "pets").samples("image")
    batch = model.preprocess([{"image": sample} for sample in rows])
    (given,) = session.get_inputs()
    outputs = session.run(None, {given.name: next(iter(batch.values())).numpy()})
    with torch.no_grad():
        ours = model(batch)
    assert told
    (task,) = ours
    assert (torch.from_numpy(outputs[0]).argmax(1) == ours[task].argmax(1)).float().mean() >= 0.95
    assert path.stat().st_size < 4 * rounded.parameters
