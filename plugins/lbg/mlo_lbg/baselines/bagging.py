"""K small networks on K bootstrap samples, voting."""

import torch

from mlo_lbg.architecture import Architecture
from mlo_lbg.classifier import train_classifier
from mlo_lbg.data.dataset import Examples
from mlo_lbg.predictors import Ensemble
from mlo_lbg.seeds import spawn
from mlo_lbg.trainer import ALONE, Trainer
from mlo_lbg.training import Optimisation


def bagging(
    train: Examples,
    architecture: Architecture,
    optimisation: Optimisation,
    *,
    seed: int,
    trainer: Trainer = ALONE,
) -> Ensemble:
    """Train each member on N of the N examples, drawn with replacement; average probabilities.

    Args:
        train: All training examples; the attribute is not used.
        architecture: `num_groups` times `make_member` is built.
        optimisation: AdamW settings of every member.
        seed: Decides samples, initial weights and batches.
        trainer: How it is run.

    References:
        Breiman (1996), Bagging predictors.
    """
    sampling, *seeds = spawn(seed, 1 + architecture.num_groups)
    generator = torch.Generator().manual_seed(sampling)
    members = []
    for place, member_seed in enumerate(seeds):
        drawn = torch.randint(len(train), (len(train),), generator=generator)
        members.append(
            train_classifier(
                train.subset(drawn.to(train.targets.device)),
                architecture.make_member,
                optimisation,
                seed=member_seed,
                trainer=trainer.within(f"member-{place}"),
            )
        )
    return Ensemble(members=members)
