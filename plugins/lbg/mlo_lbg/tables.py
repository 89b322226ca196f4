"""Tables as programs, one for each packaged configuration that has a name in the paper or here."""

from mlo.program import Program
from mlo_lbg.comparison_config import ComparisonConfig
from mlo_lbg.program import comparison


def _table(name: str, summary: str) -> Program[ComparisonConfig]:
    return comparison(name, summary=summary, command=f"mlo table {name} --set data.root=DIR")


adult = _table("adult", "Adult: income, by sex.")
adult_fair = _table("adult_fair", "Adult: income, with fairness sought; error against DEO.")
compas = _table("compas", "COMPAS: recidivism, by sex.")
german = _table("german", "German credit: risk, by sex.")
ham10000 = _table("ham10000", "HAM10000 at 32 x 32: seven kinds of skin lesion, by sex.")
cifar10_jpeg = _table("cifar10_jpeg", "CIFAR-10 as JPEG, a part of it, small networks.")
celeba = _table("celeba", "Table 1 of the paper: CelebA, attractive, by sex.")
isic = _table("isic", "Table 2 of the paper: ISIC 2018, by sex, at the paper's size.")
cifar10 = _table("cifar10", "Table 3 of the paper: CIFAR-10, ResNet-56.")
cifar100 = _table("cifar100", "Table 3 of the paper: CIFAR-100, ResNet-56.")
imagenet = _table("imagenet", "Table 3 of the paper: a tenth of ImageNet, ResNet-18.")
groups = _table("groups", "Table 7 of the paper: K = 1 to 4 groups, on CIFAR-10.")
