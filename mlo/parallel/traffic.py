"""How often the ranks have spoken to each other, and how much."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Collective operations of one kind.

    Attributes:
        count: How many there were.
        bytes: What this rank put in: the size of the buffers, before the algorithm multiplies it. A
            ring sends ``2 (size - 1) / size`` times as much for a reduction.
    """

    count: int = 0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What one rank has taken part in.

    Attributes:
        kinds: Volume by kind; see `mlo.parallel.data_parallel.DataParallel.traffic`.
    """

    kinds: Mapping[str, Volume] = field(default_factory=dict)

    @property
    def total(self) -> Volume:
        """The sum over all kinds.

        >>> Traffic(kinds={"a": Volume(count=1, bytes=8), "b": Volume(count=2, bytes=4)}).total
        Volume(count=3, bytes=12)
        """
        return Volume(
            count=sum(volume.count for volume in self.kinds.values()),
            bytes=sum(volume.bytes for volume in self.kinds.values()),
        )

    def since(self, earlier: "Traffic") -> "Traffic":
        """Return what has come since an earlier reading; kinds that did not move are left out.

        >>> before, after = Volume(count=1, bytes=8), Volume(count=3, bytes=24)
        >>> earlier = Traffic(kinds={"a": before, "b": before})
        >>> Traffic(kinds={"a": after, "b": before}).since(earlier)
        Traffic(kinds={'a': Volume(count=2, bytes=16)})
        """
        moved = {}
        for kind, volume in self.kinds.items():
            before = earlier.kinds.get(kind, Volume())
            if volume != before:
                moved[kind] = Volume(
                    count=volume.count - before.count, bytes=volume.bytes - before.bytes
                )
        return Traffic(kinds=moved)
