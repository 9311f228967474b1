"""Before a run that keeps checkpoints: may it begin, and from which checkpoint does it go on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from zoo.bundle.checkpoints import Checkpoint, Resting
from zoo.claiming import claimed
from zoo.contracts.method import Plan
from zoo.data import Table
from zoo.model import Model
from zoo.training.judging.history import History
from zoo.training.planning.groups import trained_names
from zoo.training.planning.settings import Settings
from zoo.training.ranks import Ranks
from zoo.training.resuming.checkpointing import Keeper
from zoo.training.resuming.identity import check_run, identify
from zoo.training.resuming.interrupting import Interrupts
from zoo.training.resuming.runfolder import RunFolder

__all__ = ["check_folder", "continued", "own_folder"]

log = logging.getLogger("zoo")


def check_folder(run: Settings) -> None:
    """Find out, before any data is read, whether a run may use its folder.

    Raises:
        ConfigError: If it is to begin where another run's checkpoints are, or to go on where there are none.
    """
    if run.checkpoint is not None:
        folder = RunFolder(run.checkpoint, run.keep_checkpoints)
        folder.check_there() if run.resume else folder.check_empty()


@contextmanager
def own_folder(run: Settings, ranks: Ranks) -> Iterator[None]:
    """Keep other runs out of a run's folder while it trains; of several processes the first does so for all.

    Raises:
        BundleError: If another run trains in it.
        ConfigError: If another run has ended in it since this one looked.
        TrainingError: In the other processes, if the first one fails.
    """
    with ExitStack() as held:

        def take() -> None:
            if run.checkpoint is not None and ranks.first:
                held.enter_context(claimed(run.checkpoint, "training"))
                check_folder(run)

        ranks.after_first(take)
        yield


def continued(
    model: Model,
    plan: Plan,
    parts: Mapping[str, Table],
    columns: Mapping[str, str],
    run: Settings,
    history: History,
    ranks: Ranks,
) -> tuple[Keeper | None, Checkpoint | None]:
    """Give what keeps a run's checkpoints, and the one to go on from.

    Args:
        model: The model, before training.
        plan: What trains when.
        parts: The rows of each part.
        columns: Task name to label column.
        run: The user's settings.
        history: The run's, not yet trained.
        ranks: The processes that train.

    Raises:
        ConfigError: If the run is to go on, and no checkpoint is whole, or the newest is of another run.
        BundleError: If the store cannot be written.
    """
    if run.checkpoint is None:
        return None, None
    folder = RunFolder(run.checkpoint, run.keep_checkpoints)
    resting = Resting.of(model, set(trained_names(model, plan)), keep=ranks.first)
    identity = identify(model, parts, columns, history, resting.digests)
    found = ranks.after_first(lambda: folder.newest(check_run(identity))) if run.resume else None
    if found is not None:
        done = found.training
        log.info("Going on from %s: step %d of %d, epoch %.2f.", found.path, done.step, done.steps, done.epoch)
        for library, version in identity["versions"].items():
            before = done.run.get("versions", {}).get(library)
            if before != version:
                log.warning(
                    "The run began with %s %s, and this is %s: it may end a little otherwise.", library, before, version
                )
    every, interrupts = run.checkpoint_every, Interrupts()
    keeper = Keeper(folder, model, identity, resting, history, every=every, interrupts=interrupts)
    return keeper, found
