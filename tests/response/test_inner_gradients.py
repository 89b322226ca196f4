import torch
from torch import nn

from mlo.response.inner_gradients import difference, gradients_of


def loss(solution, upstream):
    return (solution["w"] ** 2 * upstream["a"]["u"]).sum()


GIVEN = {"w": torch.tensor([2.0]), "unused": torch.ones(3)}, {"a": {"u": torch.tensor([5.0])}}


def test_both_come_from_one_evaluation():
    own, above = gradients_of(loss, *GIVEN, own=True, above=True)
    assert own["w"].item() == 20.0
    assert torch.equal(own["unused"], torch.zeros(3))
    assert above["a"]["u"].item() == 4.0


def test_only_what_is_wanted_is_asked_for():
    asked = []

    def watched(solution, upstream):
        asked.append((solution["w"].requires_grad, upstream["a"]["u"].requires_grad))
        return loss(solution, upstream)

    for own in (True, False):
        for above in (True, False):
            found = gradients_of(watched, *GIVEN, own=own, above=above)
            assert [bool(part) for part in found] == [own, above]
    # The solution is a variable always, as losses look which parameters are trained.
    assert asked == [(True, True), (True, False), (True, True)]


def test_a_loss_that_depends_on_nothing_above_answers_nothing():
    own, above = gradients_of(lambda s, u: s["w"].sum(), *GIVEN, own=False, above=True)
    assert own == above == {}


def test_the_sparse_gradient_of_an_embedding_becomes_dense():
    rows = nn.Embedding(4, 2).weight.detach()

    def looked_up(solution, upstream):
        indices = torch.tensor([1, 1])
        return nn.functional.embedding(indices, solution["w"], sparse=True).sum()

    own, _ = gradients_of(looked_up, {"w": rows}, {}, own=True, above=False)
    assert own["w"].layout is torch.strided
    assert own["w"].sum() == 4.0


def test_a_difference_keeps_what_both_sides_hold():
    ahead = {"a": {"u": torch.tensor([3.0]), "only": torch.ones(1)}, "b": {"u": torch.ones(1)}}
    behind = {"a": {"u": torch.tensor([1.0])}}
    found = difference(ahead, behind, torch.tensor(0.5))
    assert found == {"a": {"u": torch.tensor([1.0])}}
