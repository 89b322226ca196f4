"""The state of the groups while they are searched for."""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from mlo.round import Round
from mlo_lbg import diagnostics
from mlo_lbg.data.dataset import Halves
from mlo_lbg.evaluating import evaluating
from mlo_lbg.problems import Modules, SearchSettings


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The state of the groups after an epoch; entropies in nats.

    The two `nmi_attribute` and `nmi_label` and everything else are measured on the training half,
    `validation_loss` on the validation half.

    Attributes:
        round: Rounds done.
        epoch: Epochs done; an epoch is one pass over the training half.
        losses: Last batch loss of each problem.
        validation_loss: Eq. 4 over the whole validation half.
        load: Share of each group by the GAM.
        row_entropy: Mean entropy of the rows of C.
        mean_row_entropy: Entropy of the mean row of C.
        mean_gam_entropy: Entropy of the mean of f.
        flip_rate: Share of rows whose group in C changed since the last epoch.
        agreement: Share of examples whose group by the GAM is their group in C.
        confidence: Mean of E.
        nmi_attribute: NMI of the GAM's group and the attribute.
        nmi_label: NMI of the GAM's group and the label.
    """

    round: int
    epoch: int
    losses: dict[str, float]
    validation_loss: float
    load: tuple[float, ...]
    row_entropy: float
    mean_row_entropy: float
    mean_gam_entropy: float
    flip_rate: float
    agreement: float
    confidence: float
    nmi_attribute: float
    nmi_label: float

    def scalars(self) -> dict[str, float]:
        """Return its numbers by the names that a record shows them under."""
        numbers = asdict(self)
        del numbers["round"], numbers["epoch"], numbers["losses"]
        load = numbers.pop("load")
        # What belongs in one picture shares the first half of its name.
        grouped = {
            "row_entropy": "entropy/row of C",
            "mean_row_entropy": "entropy/mean row of C",
            "mean_gam_entropy": "entropy/mean of f",
            "nmi_attribute": "nmi/attribute",
            "nmi_label": "nmi/label",
        }
        named = {grouped.get(name, name): value for name, value in numbers.items()}
        return named | {f"load/group {k}": share for k, share in enumerate(load)}


@torch.no_grad()
def diagnose(
    modules: Modules,
    settings: SearchSettings,
    halves: Halves,
    done: Round,
    *,
    epoch: int,
    before: Tensor,
) -> Diagnosis:
    """Measure the groups as they are, every module in evaluation mode.

    Args:
        modules: What is being trained.
        settings: Its routing gives the validation loss.
        halves: Training and validation half.
        done: The last round.
        epoch: Epochs done.
        before: `(examples,)` groups in C one epoch ago.
    """
    train, validation = halves
    with evaluating(*modules.parts()):
        probabilities = modules.gam(train.inputs).softmax(-1)
        routed = settings.routing.validation(
            modules.gam(validation.inputs),
            list(modules.experts),
            validation.inputs,
            validation.targets,
        )
    rows = modules.assignments.all_rows()
    chosen, assigned = probabilities.argmax(-1), rows.argmax(-1)
    # Clipped rows need not sum to 1.
    shares = rows / rows.sum(-1, keepdim=True).clamp_min(1e-12)
    return Diagnosis(
        round=done.number,
        epoch=epoch,
        losses={name: float(loss) for name, loss in done.losses.items()},
        validation_loss=float(routed.mean()),
        load=tuple(diagnostics.load(chosen, rows.shape[-1]).tolist()),
        row_entropy=float(diagnostics.mean_entropy(shares)),
        mean_row_entropy=float(diagnostics.entropy_of_mean(shares)),
        mean_gam_entropy=float(diagnostics.entropy_of_mean(probabilities)),
        flip_rate=float(diagnostics.flip_rate(before, assigned)),
        agreement=float(diagnostics.agreement(chosen, assigned)),
        confidence=float(diagnostics.mean_confidence(probabilities)),
        nmi_attribute=diagnostics.nmi(chosen, train.attribute),
        nmi_label=diagnostics.nmi(chosen, train.targets),
    )
