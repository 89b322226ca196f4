"""The methods that a comparison can name, all with one signature."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlo_lbg.architecture import Architecture
from mlo_lbg.baselines.bagging import bagging
from mlo_lbg.baselines.given_groups import attribute_groups, kmeans_groups
from mlo_lbg.baselines.mixtures import soft_mixture, top_one_mixture
from mlo_lbg.baselines.single import single_network
from mlo_lbg.config import ComparisonConfig, LbgConfig, SoftMixtureConfig, TrainingConfig
from mlo_lbg.data.dataset import Examples
from mlo_lbg.diagnosis import Diagnosis
from mlo_lbg.evaluation import Trained
from mlo_lbg.grouping import learn_by_grouping
from mlo_lbg.trainer import Trainer
from mlo_lbg.watch import Observe


@dataclass(frozen=True, kw_only=True)
class Task:
    """One training run of one method.

    Attributes:
        train: All training examples.
        architecture: What networks it may build.
        seed: Decides everything random.
        trainer: How it is run.
        observe: Told the diagnosis of each epoch by methods that search for groups.
    """

    train: Examples
    architecture: Architecture
    seed: int
    trainer: Trainer
    observe: Observe


Learned = tuple[Trained, tuple[Diagnosis, ...]]
"""A trained method, and the diagnoses of its search for groups if it makes one."""

Method = Callable[[ComparisonConfig, Task], Learned]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method with the name that tables show."""

    title: str
    train: Method


def _single(choose: Callable[[ComparisonConfig], TrainingConfig]) -> Method:
    def train(config: ComparisonConfig, task: Task) -> Learned:
        optimisation = choose(config).optimisation()
        network = single_network(
            task.train, task.architecture, optimisation, seed=task.seed, trainer=task.trainer
        )
        return network, ()

    return train


def _bagging(config: ComparisonConfig, task: Task) -> Learned:
    optimisation = config.bagging.optimisation()
    ensemble = bagging(
        task.train, task.architecture, optimisation, seed=task.seed, trainer=task.trainer
    )
    return ensemble, ()


def _soft_mixture(choose: Callable[[ComparisonConfig], SoftMixtureConfig]) -> Method:
    def train(config: ComparisonConfig, task: Task) -> Learned:
        chosen = choose(config)
        mixture = soft_mixture(
            task.train,
            task.architecture,
            chosen.optimisation(),
            objective=chosen.mixture_loss(),
            seed=task.seed,
            trainer=task.trainer,
        )
        return mixture, ()

    return train


def _top_one_mixture(config: ComparisonConfig, task: Task) -> Learned:
    mixture = top_one_mixture(
        task.train,
        task.architecture,
        config.top_one_mixture.optimisation(),
        balance=config.top_one_mixture.balance,
        seed=task.seed,
        trainer=task.trainer,
    )
    return mixture, ()


def _kmeans(config: ComparisonConfig, task: Task) -> Learned:
    experts = kmeans_groups(
        task.train,
        task.architecture,
        config.kmeans.optimisation(),
        restarts=config.kmeans.restarts,
        seed=task.seed,
        trainer=task.trainer,
    )
    return experts, ()


def _attribute(config: ComparisonConfig, task: Task) -> Learned:
    optimisation = config.attribute.optimisation()
    experts = attribute_groups(
        task.train, task.architecture, optimisation, seed=task.seed, trainer=task.trainer
    )
    return experts, ()


def _lbg(choose: Callable[[ComparisonConfig], LbgConfig], *, learned: bool) -> Method:
    def train(config: ComparisonConfig, task: Task) -> Learned:
        return learn_by_grouping(
            task.train,
            task.architecture,
            choose(config).grouping(learned=learned),
            seed=task.seed,
            trainer=task.trainer,
            observe=task.observe,
        )

    return train


METHODS: Mapping[str, Entry] = {
    "single": Entry(title="one network", train=_single(lambda c: c.single)),
    "bagging": Entry(title="bagging", train=_bagging),
    "soft_mixture": Entry(title="soft mixture", train=_soft_mixture(lambda c: c.soft_mixture)),
    "top_one_mixture": Entry(title="top-1 mixture", train=_top_one_mixture),
    "kmeans": Entry(title="k-means groups", train=_kmeans),
    "lbg_hard": Entry(title="LBG hard", train=_lbg(lambda c: c.lbg_hard, learned=True)),
    "lbg_soft": Entry(title="LBG soft", train=_lbg(lambda c: c.lbg_soft, learned=True)),
    "lbg_random": Entry(title="LBG random C", train=_lbg(lambda c: c.lbg_random, learned=False)),
    "attribute": Entry(title="true groups", train=_attribute),
    "single_tuned": Entry(title="one network, tuned", train=_single(lambda c: c.single_tuned)),
    "soft_mixture_tuned": Entry(
        title="soft mixture, tuned",
        train=_soft_mixture(lambda c: c.soft_mixture_tuned),
    ),
    "lbg_soft_tuned": Entry(
        title="LBG soft, tuned", train=_lbg(lambda c: c.lbg_soft_tuned, learned=True)
    ),
}
