"""The first phase of LBG: train the three levels together and watch the groups."""

import mlo
from mlo_lbg.budget import Budget
from mlo_lbg.data.batches import Batches
from mlo_lbg.data.dataset import Examples, Halves
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.problems import Modules, SearchSettings, frozen_assignments, three_levels
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.watch import Observe, Watch, unobserved


def search(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    budget: Budget,
    *,
    learned: bool = True,
    seed: int,
    trainer: Trainer = ALONE,
    observe: Observe = unobserved,
) -> tuple[Diagnosis, ...]:
    """Train GAM, experts and assignments in place; return the diagnosis after each epoch.

    Args:
        modules: What is trained, on the device of the examples.
        settings: How.
        halves: Training half, whose rows C addresses, and validation half.
        budget: How long.
        learned: False leaves C as it is: the control that shows what learning C is worth.
        seed: Decides the batches.
        trainer: How it is run.
        observe: Told the diagnosis after each epoch, as it comes.

    Raises:
        NonFiniteError: If a loss or gradient is not finite.
    """
    watch = Watch(modules, settings, halves, budget, record=trainer.record, observe=observe)
    trainer.run(
        _declare(modules, settings, halves, budget, learned=learned, seed=seed),
        device=halves.train.inputs.device,
        until=budget.rounds,
        record_every=budget.rounds_per_epoch(halves),
        also={"watch": watch},
        stopping=watch.stops,
        callbacks=mlo.Callbacks(after_round=watch),
    )
    watch.go_back()
    return tuple(watch.history)


def _declare(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    budget: Budget,
    *,
    learned: bool,
    seed: int,
) -> mlo.Graph:
    def batches(examples: Examples, stream: int) -> Batches:
        # Batch statistics of a single example are undefined: normalisation layers raise.
        alone = len(examples) > budget.batch_size and len(examples) % budget.batch_size == 1
        return Batches(examples, size=budget.batch_size, seed=stream, drop_last=alone)

    for_training, for_assignments = spawn(seed, 2)
    # One seed, so one batch for both: a row of C then hears how its own example's expert adapts.
    gam_batches = batches(halves.train, for_training)
    expert_batches = batches(halves.train, for_training)
    # With one group every row of C is 1 whatever its logits: there is nothing to learn.
    if not learned or modules.assignments.all_rows().shape[-1] == 1:
        return frozen_assignments(
            modules, settings, gam_batches=gam_batches, expert_batches=expert_batches
        )
    return three_levels(
        modules,
        settings,
        gam_batches=gam_batches,
        expert_batches=expert_batches,
        validation_batches=batches(halves.validation, for_assignments),
    )
