"""zoo's own training methods: one file each, entered by the hook that a stranger's methods use too."""

from __future__ import annotations

from zoo.hooks import hookimpl


@hookimpl
def zoo_methods() -> dict[str, str]:
    """Give the training methods; a class is imported when the method is asked for."""
    return {
        "bitfit": "zoo_methods.bitfit:BitFit",
        "continual": "zoo_methods.continual:Continual",
        "discriminative": "zoo_methods.discriminative:Discriminative",
        "distillation": "zoo_methods.distillation:Distillation",
        "domain_adaptation": "zoo_methods.domain_adaptation:DomainAdaptation",
        "feature_extraction": "zoo_methods.feature_extraction:FeatureExtraction",
        "few_shot": "zoo_methods.few_shot:FewShot",
        "fine_tuning": "zoo_methods.fine_tuning:FineTuning",
        "gradual_unfreezing": "zoo_methods.gradual_unfreezing:GradualUnfreezing",
        "linear_probe_then_finetune": "zoo_methods.linear_probe_then_finetune:LinearProbeThenFinetune",
        "lora": "zoo_methods.lora:LoRA",
        "partial": "zoo_methods.partial:Partial",
        "pruning": "zoo_methods.pruning:Pruning",
        "quantization": "zoo_methods.quantization:Quantization",
        "self_supervised": "zoo_methods.self_supervised:SelfSupervised",
        "semi_supervised": "zoo_methods.semi_supervised:SemiSupervised",
    }
