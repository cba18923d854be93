"""Shards that disappear or are damaged while a run reads them: it goes on without a few of them."""

from collections.abc import Mapping

from ..errors import TalkingheadError

MAX_SHARE = 0.01
"""The largest share of the shards that a run goes on without."""


class LostShards:
    """The shards that could not be read, by their numbers.

    Args:
        total: number of shards.

    Attributes:
        total: number of shards.
        reasons: of each lost one, the message of its error.
        reported: those that a message has named.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.reasons: dict[int, str] = {}
        self.reported: set[int] = set()

    @property
    def changed(self) -> bool:
        """True if some are lost that no message has named."""
        return len(self.reported) < len(self.reasons)

    def __contains__(self, shard: object) -> bool:
        return shard in self.reasons

    def add(self, shard: int, error: TalkingheadError) -> None:
        """Go on without a shard.

        Raises:
            TalkingheadError: too many are lost; the error itself where it is the first.
        """
        self.update({shard: str(error)})
        if len(self.reasons) == 1 and self._is_over_limit():
            raise error
        self.check()

    def update(self, reasons: Mapping[int, str]) -> None:
        """Add shards that another process could not read."""
        self.reasons = {**reasons, **self.reasons}

    def check(self) -> None:
        """Check that few are lost.

        Raises:
            TalkingheadError: they are more than 1 %.
        """
        if self._is_over_limit():
            reason, _, remedy = self.reasons[min(self.reasons)].partition("; ")
            count = f"{len(self.reasons)} of {self.total} shards cannot be read, more than 1 %"
            raise TalkingheadError(f"{reason}; {count}; {remedy}")

    def _is_over_limit(self) -> bool:
        return len(self.reasons) > MAX_SHARE * self.total
