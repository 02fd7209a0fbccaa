"""Population-based training: who copies whose checkpoint, and with what values the copy goes on.

Jaderberg et al. 2017; with `search.scheduler=pb2` the values are chosen as in Parker-Holder et al. 2020. A
member is a trial of the study. It trains in branches: its first one, and another after each copy; a branch
has one set of values. Each is a run in a folder of its own, whose configuration has the values of the whole
lineage by kimg: so a branch can be trained from its copied checkpoint, or from nothing to the same bits.

What a member decides at the end of an interval is stored in the study before it is carried out, and is a pure
function of what the study holds: after a kill at any moment the next process decides what is not stored yet
as the first one would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from gan_dist.config import SearchConfig
from gan_dist.search import explore
from gan_dist.search.algorithms import POPULATIONS
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import Value
from gan_dist.search.study import SearchStudy

DECISION, LOST = "decision", "lost"
"""What names of a trial's attributes begin with; the images at the end of the interval follow."""


SETTINGS = ("scheduler", "trials", "perturb_kimg", "quantile", "synch", "seed", "grace_kimg")
"""Keys of `search` that the decisions depend on."""


def settings_of(search: SearchConfig) -> dict[str, object]:
    """Return what a population's decisions depend on, for the search's record."""
    return {key: getattr(search, key) for key in SETTINGS}


def changed_settings(
    search: SearchConfig, earlier: Mapping[str, object] | None
) -> list[tuple[object, object, str]]:
    """Return what was, what is now and the key of all that differ from a search's record.

    `earlier` is None where its trials are no members.
    """
    now = settings_of(search)
    if earlier is None and search.scheduler not in POPULATIONS:
        return []
    if earlier is None:
        return [("another kind", search.scheduler, "search.scheduler")]
    return [(earlier.get(key), now[key], f"search.{key}") for key in now if earlier.get(key) != now[key]]


@dataclass(frozen=True)
class Branch:
    """A run of a member, with one set of values from a copied checkpoint on, or from the start."""

    name: str
    """Name of its run, and of its folder in `trials`."""
    member: int
    values: Mapping[str, Value]
    parent: str | None = None
    """The branch whose checkpoint was copied."""
    images: int = 0
    """Images of that checkpoint."""


@dataclass(frozen=True)
class Member:
    """What the study knows of a member."""

    first: Branch
    decisions: Mapping[int, Branch | None]
    """By the images at the end of an interval: the branch that begins there, or None where it goes on."""
    measured: Mapping[int, float]
    lost: Mapping[int, str]
    """Why the run of an interval failed, by the interval's end."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> Member:
        """Return the member of a trial."""
        decisions: dict[int, Branch | None] = {}
        lost: dict[int, str] = {}
        for name, value in trial.user_attrs.items():
            kind, _, end = name.partition(" ")
            if kind == DECISION:
                decisions[int(end)] = Branch(**value) if value else None
            elif kind == LOST:
                lost[int(end)] = str(value)
        first = Branch(f"{trial.number:05d}", trial.number, trial.params)
        return cls(first, dict(sorted(decisions.items())), trial.intermediate_values, lost)

    @staticmethod
    def number_of(name: str) -> int:
        """Return the member of a branch, by the branch's name."""
        return int(name.partition("-")[0])

    @property
    def number(self) -> int:
        return self.first.member

    @property
    def branches(self) -> list[Branch]:
        """Its branches in order."""
        return [self.first, *(branch for branch in self.decisions.values() if branch)]

    def branch(self, end: float = math.inf) -> Branch:
        """Return the branch that trained up to `end` images; the newest without."""
        before = [branch for at, branch in self.decisions.items() if branch and at < end]
        return before[-1] if before else self.first

    def reached(self, ends: Sequence[int]) -> int:
        """Return the end of the last interval that it has trained, or failed in; 0 before the first."""
        return max((end for end in ends if end in self.measured or end in self.lost), default=0)

    def at(self, ends: Sequence[int]) -> int:
        """Return the images from which it trains on."""
        return max(self.reached(ends), self.branch().images)

    def value(self, end: int) -> float:
        """Return the distance at the end of an interval; infinity where the member has none."""
        value = math.inf if end in self.lost else self.measured.get(end, math.inf)
        return value if math.isfinite(value) else math.inf


@dataclass(frozen=True)
class Task:
    """A branch to be trained up to `end` images."""

    branch: Branch
    end: int


class Population:
    """The members of a search, and what each does next.

    Args:
        study: The search's study; a member that has ended there takes no part.
        search: The section `search`.
        space: Keys that vary.
        ends: Images at the ends of the intervals; the last one is that of the run.
        grace: Images before which only members that failed copy others.
        newest: Returns the images of a branch's newest checkpoint, by its name, for asynchronous members.
    """

    def __init__(
        self,
        study: SearchStudy,
        search: SearchConfig,
        space: Space,
        ends: Sequence[int],
        grace: int,
        newest: Callable[[str], int] = lambda _: 0,
    ) -> None:
        self._study, self._search, self._space = study, search, space.distributions
        self._ends, self._grace, self._newest = ends, grace, newest
        while study.next() is not None:  # at once, so that no value depends on a measurement
            pass

    def members(self) -> list[Member]:
        """Return the members that take part."""
        return [Member.of(trial) for trial in self._study.running()]

    def decide(self, busy: Collection[int] = ()) -> list[Branch]:
        """Store the decisions that are due; return the branches that begin.

        `busy` are members that are being trained. A member that has failed decides once there is one to copy.
        """
        begun = []
        members = self.members()
        for place, member in enumerate(members):
            end = member.reached(self._ends)
            due = 0 < end < self._ends[-1] or end in member.lost
            if not due or end in member.decisions or member.number in busy or member.at(self._ends) > end:
                continue
            if self._search.synch and any(other.reached(self._ends) < end for other in members):
                continue
            found = self._decision(member, end, members)
            if found is None and member.value(end) == math.inf:
                continue
            self._study.note(member.number, f"{DECISION} {end}", found and dict(vars(found)))
            members[place] = self.members()[place]
            begun += [found] if found else []
        return begun

    def complete(self, busy: Collection[int] = ()) -> None:
        """End the trials of members that have trained to the end."""
        for member in self.members():
            ended = member.at(self._ends) >= self._ends[-1] and self._ends[-1] not in member.lost
            if ended and member.number not in busy:
                self._study.complete(member.number)

    def next(self, busy: Collection[int] = ()) -> Task | None:
        """Return what to train next, or None if there is nothing now, and without `busy` members never.

        Who has not decided at the end of its interval waits. Members that have failed, with no other to copy,
        end as failed.
        """
        self.complete(busy)
        members = self.members()
        at = {member.number: member.at(self._ends) for member in members}
        target = self._study.target_reached
        for member in sorted(members, key=lambda one: (at[one.number], one.number)):
            end = member.reached(self._ends)
            undecided = end > 0 and end == at[member.number] and end not in member.decisions
            if member.number in busy or undecided:
                continue
            if target:  # nobody begins another interval
                self._study.complete(member.number)
                continue
            following = min(one for one in self._ends if one > at[member.number])
            return Task(member.branch(), following)
        if not busy:
            for member in self.members():
                self._study.fail(member.number, member.lost.get(member.reached(self._ends), "no measurement"))
        return None

    def _decision(self, member: Member, end: int, members: Sequence[Member]) -> Branch | None:
        standing = [one for one in (self._standing(other, member, end) for other in members) if one]
        own = member.value(end)
        count = min(max(1, int(self._search.quantile * len(standing))), len(standing) // 2)
        standing.sort(key=lambda one: (one.value, one.branch.member))
        worst = {one.branch.member for one in standing[len(standing) - count :]} if end >= self._grace else {}
        donors = [one for one in standing[:count] if one.value < own and one.images < self._ends[-1]]
        donors = [one for one in donors if one.branch.member != member.number]
        if not donors or not (own == math.inf or member.number in worst):
            return None
        key = self._search.seed, member.number, end
        place = int(explore.uniform(1, key[0], "pbt exploit", *key[1:])[0] * len(donors))
        donor = donors[place]
        values = self._explore(donor.branch.values, members, end, key)
        name = f"{member.number:05d}-{len(member.branches)}"
        return Branch(name, member.number, values, donor.branch.name, donor.images)

    def _standing(self, other: Member, member: Member, end: int) -> _Standing | None:
        """Return how another member stands where one has reached `end`: at `end` in lock step, or by now."""
        if self._search.synch or other is member:
            return _Standing(other.value(end), other.branch(end), end)
        reached, branch = other.reached(self._ends), other.branch()
        if not reached:
            return None
        # Those behind are compared, but not copied.
        images = max(reached, self._newest(branch.name)) if reached >= end else self._ends[-1]
        return _Standing(other.value(reached), branch, images)

    def _explore(
        self, values: Mapping[str, Value], members: Sequence[Member], end: int, key: tuple[int, int, int]
    ) -> dict[str, Value]:
        if self._search.scheduler != "pb2":
            return explore.perturb(self._space, values, *key)
        newest = [member.branch().values for member in members if member.number != key[1]]
        now = float(self._ends.index(end) + 1)
        return explore.choose(self._space, self._gains(members, end), newest, now, *key)

    def _gains(self, members: Sequence[Member], end: int) -> list[tuple[float, Mapping[str, Value], float]]:
        """Return time, values and improvement of each interval up to `end` that began with a measurement."""
        known = {member.number: member for member in members}
        gains = []
        for member in members:
            for time, (before, after) in enumerate(zip(self._ends, self._ends[1:], strict=False), 1):
                branch = member.branch(after)
                begun: Member | None = member
                if branch.parent is not None and before == branch.images:
                    begun = known.get(Member.number_of(branch.parent))
                if after <= end and begun is not None and branch.images <= before:
                    gain = begun.value(before) - member.value(after)
                    gains += [(float(time), branch.values, gain)] if math.isfinite(gain) else []
        return gains


@dataclass(frozen=True)
class _Standing:
    """How a member stands: its value, and what is copied of it."""

    value: float
    branch: Branch
    images: int
