"""zoo: pretrained backbones from anywhere, your heads on them, trained, saved and combined one way.

Importing this module imports neither torch nor a plugin; each name below is loaded when it is first used.

Example:
    >>> import zoo
    >>> model = zoo.build("timm:test_resnet", zoo.head("classifier", classes=["cat", "dog"]), weights=None)
    >>> model.spec.streams["main"].backbone.pooled_dim
    96
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# public name -> the module that has it, and its name there
_FACE = {
    "Advice": ("zoo.advising.advice", "Advice"),
    "Augmentation": ("zoo.augmentation", "Augmentation"),
    "Backbone": ("zoo.contracts.backbone", "Backbone"),
    "BackboneOutline": ("zoo.contracts.outline", "BackboneOutline"),
    "BackboneSpec": ("zoo.spec", "BackboneSpec"),
    "Batch": ("zoo.contracts.objective", "Batch"),
    "BlockSpace": ("zoo.searching.spaces", "BlockSpace"),
    "BundleError": ("zoo.errors", "BundleError"),
    "CapabilityError": ("zoo.errors", "CapabilityError"),
    "Catalog": ("zoo.contracts.catalog", "Catalog"),
    "CatalogEntry": ("zoo.contracts.catalog", "CatalogEntry"),
    "ConfigError": ("zoo.errors", "ConfigError"),
    "DataError": ("zoo.errors", "DataError"),
    "Decoded": ("zoo.contracts.head", "Decoded"),
    "Ensemble": ("zoo.ensembling.ensemble", "Ensemble"),
    "EnsembleSpec": ("zoo.ensembling.spec", "EnsembleSpec"),
    "Features": ("zoo.contracts.features", "Features"),
    "Head": ("zoo.contracts.head", "Head"),
    "HeadConfig": ("zoo.contracts.head", "HeadConfig"),
    "HeadContext": ("zoo.contracts.head", "HeadContext"),
    "HeadSpec": ("zoo.spec", "HeadSpec"),
    "History": ("zoo.training.judging.history", "History"),
    "InputSpec": ("zoo.spec", "InputSpec"),
    "InvalidReference": ("zoo.errors", "InvalidReference"),
    "Label": ("zoo.contracts.head", "Label"),
    "Method": ("zoo.contracts.method", "Method"),
    "Model": ("zoo.model", "Model"),
    "ModelSpec": ("zoo.spec", "ModelSpec"),
    "Needs": ("zoo.contracts.head", "Needs"),
    "Objective": ("zoo.contracts.objective", "Objective"),
    "Plan": ("zoo.contracts.method", "Plan"),
    "PluginError": ("zoo.errors", "PluginError"),
    "Preprocessing": ("zoo.preprocessing", "Preprocessing"),
    "Provider": ("zoo.contracts.provider", "Provider"),
    "PruneReport": ("zoo.pruning.report", "PruneReport"),
    "QuantizeReport": ("zoo.quantizing.report", "QuantizeReport"),
    "Reference": ("zoo.reference", "Reference"),
    "ShapeError": ("zoo.errors", "ShapeError"),
    "StageMap": ("zoo.contracts.backbone", "StageMap"),
    "StageOutline": ("zoo.contracts.outline", "StageOutline"),
    "StageSpec": ("zoo.spec", "StageSpec"),
    "StageState": ("zoo.contracts.method", "StageState"),
    "StreamSpec": ("zoo.spec", "StreamSpec"),
    "Table": ("zoo.data", "Table"),
    "Store": ("zoo.bundle.store", "Store"),
    "Task": ("zoo.contracts.head", "Task"),
    "TaskConfig": ("zoo.contracts.head", "TaskConfig"),
    "TrainingError": ("zoo.errors", "TrainingError"),
    "TrainingRows": ("zoo.contracts.objective", "TrainingRows"),
    "UnknownName": ("zoo.errors", "UnknownName"),
    "Want": ("zoo.contracts.features", "Want"),
    "WeightsError": ("zoo.errors", "WeightsError"),
    "ZooError": ("zoo.errors", "ZooError"),
    "ZooSpace": ("zoo.searching.spaces", "ZooSpace"),
    "advise": ("zoo.advising.making", "advise"),
    "build": ("zoo.assembly", "build"),
    "chain": ("zoo.chaining.running", "chain"),
    "check_options": ("zoo.strict", "check_options"),
    "convert": ("zoo.converting.making", "convert"),
    "diff": ("zoo.remote", "diff"),
    "ensemble": ("zoo.ensembling.making", "ensemble"),
    "evaluate": ("zoo.training.judging.evaluation", "evaluate"),
    "evaluate_episodes": ("zoo.episodes.evaluating", "evaluate_episodes"),
    "export": ("zoo.exporting.writing", "export"),
    "find_lr": ("zoo.training.rate_finding", "find_lr"),
    "fit": ("zoo.advising.fitting", "fit"),
    "fit_ensemble": ("zoo.training.ensembles", "fit_ensemble"),
    "fit_weights": ("zoo.contracts.weights", "fit_weights"),
    "skip_initialisers": ("zoo.contracts.initialising", "skip_initialisers"),
    "head": ("zoo.assembly", "head"),
    "hookimpl": ("zoo.hooks", "hookimpl"),
    "infer_heads": ("zoo.training.rows.heads", "infer_heads"),
    "info": ("zoo.catalog", "info"),
    "inspect": ("zoo.remote", "inspect"),
    "list": ("zoo.catalog", "list_backbones"),
    "load": ("zoo.remote", "load"),
    "plan": ("zoo.training.planning.table", "plan"),
    "plugins": ("zoo.registry", "list_plugins"),
    "prune": ("zoo.pruning.making", "prune"),
    "quantize": ("zoo.quantizing.making", "quantize"),
    "read": ("zoo.data", "read"),
    "resolve": ("zoo.catalog", "resolve"),
    "save": ("zoo.remote", "save"),
    "search": ("zoo.searching.making", "search"),
    "sign": ("zoo.bundle", "sign"),
    "soup": ("zoo.training.soups", "soup"),
    "split_table": ("zoo.data", "split_table"),
    "upgrade": ("zoo.bundle.upgrading", "upgrade"),
    "verify": ("zoo.remote", "verify"),
    "wrap": ("zoo.wrapping", "wrap"),
    "zero_loss": ("zoo.contracts.head", "zero_loss"),
}

__all__ = [
    "Advice",
    "Augmentation",
    "Backbone",
    "BackboneOutline",
    "BackboneSpec",
    "Batch",
    "BlockSpace",
    "BundleError",
    "CapabilityError",
    "Catalog",
    "CatalogEntry",
    "ConfigError",
    "DataError",
    "Decoded",
    "Ensemble",
    "EnsembleSpec",
    "Features",
    "Head",
    "HeadConfig",
    "HeadContext",
    "HeadSpec",
    "History",
    "InputSpec",
    "InvalidReference",
    "Label",
    "Method",
    "Model",
    "ModelSpec",
    "Needs",
    "Objective",
    "Plan",
    "PluginError",
    "Preprocessing",
    "Provider",
    "PruneReport",
    "QuantizeReport",
    "Reference",
    "ShapeError",
    "StageMap",
    "StageOutline",
    "StageSpec",
    "StageState",
    "Store",
    "StreamSpec",
    "Table",
    "Task",
    "TaskConfig",
    "TrainingError",
    "TrainingRows",
    "UnknownName",
    "Want",
    "WeightsError",
    "ZooError",
    "ZooSpace",
    "advise",
    "build",
    "chain",
    "check_options",
    "convert",
    "diff",
    "ensemble",
    "evaluate",
    "evaluate_episodes",
    "export",
    "find_lr",
    "fit",
    "fit_ensemble",
    "fit_weights",
    "head",
    "hookimpl",
    "infer_heads",
    "info",
    "inspect",
    "list",
    "load",
    "plan",
    "plugins",
    "prune",
    "quantize",
    "read",
    "resolve",
    "save",
    "search",
    "sign",
    "skip_initialisers",
    "soup",
    "split_table",
    "upgrade",
    "verify",
    "wrap",
    "zero_loss",
]
__version__ = "0.1.0"


if TYPE_CHECKING:
    from zoo.advising.advice import Advice as Advice
    from zoo.advising.fitting import fit as fit
    from zoo.advising.making import advise as advise
    from zoo.assembly import build as build
    from zoo.assembly import head as head
    from zoo.augmentation import Augmentation as Augmentation
    from zoo.bundle import sign as sign
    from zoo.bundle.store import Store as Store
    from zoo.bundle.upgrading import upgrade as upgrade
    from zoo.catalog import info as info
    from zoo.catalog import list_backbones as list
    from zoo.catalog import resolve as resolve
    from zoo.chaining.running import chain as chain
    from zoo.contracts.backbone import Backbone as Backbone
    from zoo.contracts.backbone import StageMap as StageMap
    from zoo.contracts.catalog import Catalog as Catalog
    from zoo.contracts.catalog import CatalogEntry as CatalogEntry
    from zoo.contracts.features import Features as Features
    from zoo.contracts.features import Want as Want
    from zoo.contracts.head import Decoded as Decoded
    from zoo.contracts.head import Head as Head
    from zoo.contracts.head import HeadConfig as HeadConfig
    from zoo.contracts.head import HeadContext as HeadContext
    from zoo.contracts.head import Label as Label
    from zoo.contracts.head import Needs as Needs
    from zoo.contracts.head import Task as Task
    from zoo.contracts.head import TaskConfig as TaskConfig
    from zoo.contracts.head import zero_loss as zero_loss
    from zoo.contracts.initialising import skip_initialisers as skip_initialisers
    from zoo.contracts.method import Method as Method
    from zoo.contracts.method import Plan as Plan
    from zoo.contracts.method import StageState as StageState
    from zoo.contracts.objective import Batch as Batch
    from zoo.contracts.objective import Objective as Objective
    from zoo.contracts.objective import TrainingRows as TrainingRows
    from zoo.contracts.outline import BackboneOutline as BackboneOutline
    from zoo.contracts.outline import StageOutline as StageOutline
    from zoo.contracts.provider import Provider as Provider
    from zoo.contracts.weights import fit_weights as fit_weights
    from zoo.converting.making import convert as convert
    from zoo.data import Table as Table
    from zoo.data import read as read
    from zoo.data import split_table as split_table
    from zoo.ensembling.ensemble import Ensemble as Ensemble
    from zoo.ensembling.making import ensemble as ensemble
    from zoo.ensembling.spec import EnsembleSpec as EnsembleSpec
    from zoo.episodes.evaluating import evaluate_episodes as evaluate_episodes
    from zoo.errors import BundleError as BundleError
    from zoo.errors import CapabilityError as CapabilityError
    from zoo.errors import ConfigError as ConfigError
    from zoo.errors import DataError as DataError
    from zoo.errors import InvalidReference as InvalidReference
    from zoo.errors import PluginError as PluginError
    from zoo.errors import ShapeError as ShapeError
    from zoo.errors import TrainingError as TrainingError
    from zoo.errors import UnknownName as UnknownName
    from zoo.errors import WeightsError as WeightsError
    from zoo.errors import ZooError as ZooError
    from zoo.exporting.writing import export as export
    from zoo.hooks import hookimpl as hookimpl
    from zoo.model import Model as Model
    from zoo.preprocessing import Preprocessing as Preprocessing
    from zoo.pruning.making import prune as prune
    from zoo.pruning.report import PruneReport as PruneReport
    from zoo.quantizing.making import quantize as quantize
    from zoo.quantizing.report import QuantizeReport as QuantizeReport
    from zoo.reference import Reference as Reference
    from zoo.registry import list_plugins as plugins
    from zoo.remote import diff as diff
    from zoo.remote import inspect as inspect
    from zoo.remote import load as load
    from zoo.remote import save as save
    from zoo.remote import verify as verify
    from zoo.searching.making import search as search
    from zoo.searching.spaces import BlockSpace as BlockSpace
    from zoo.searching.spaces import ZooSpace as ZooSpace
    from zoo.spec import BackboneSpec as BackboneSpec
    from zoo.spec import HeadSpec as HeadSpec
    from zoo.spec import InputSpec as InputSpec
    from zoo.spec import ModelSpec as ModelSpec
    from zoo.spec import StageSpec as StageSpec
    from zoo.spec import StreamSpec as StreamSpec
    from zoo.strict import check_options as check_options
    from zoo.training.ensembles import fit_ensemble as fit_ensemble
    from zoo.training.judging.evaluation import evaluate as evaluate
    from zoo.training.judging.history import History as History
    from zoo.training.planning.table import plan as plan
    from zoo.training.rate_finding import find_lr as find_lr
    from zoo.training.rows.heads import infer_heads as infer_heads
    from zoo.training.soups import soup as soup
    from zoo.wrapping import wrap as wrap
else:

    def __getattr__(name: str) -> object:
        try:
            module, attribute = _FACE[name]
        except KeyError:
            raise AttributeError(f"module 'zoo' has no attribute {name!r}") from None
        value = getattr(importlib.import_module(module), attribute)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return [*__all__, "__version__"]
