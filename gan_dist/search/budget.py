"""What a search has spent, kept in its folder, and the budget at which it ends.

Images are those of the trials' clocks, which the study has: what is trained again after a kill counts once.
Hours and dollars are counted while a process of the search runs, in `spent.json`. Each writing of the file
has charged `AHEAD_S` seconds to come, and the next one corrects that: so a process that is killed has paid
for all its time, and for `AHEAD_S` seconds more at most.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from gan_dist.config.fields import format_value
from gan_dist.config.search import BudgetConfig
from gan_dist.config.source import read_text
from gan_dist.config.yaml12 import UnreadableYaml, compose, plain_value
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError, Problem
from gan_dist.core.storage.hashed_folder import to_json

SPENT = "spent.json"
AHEAD_S = 10.0
LOCAL = "local"
"""Node type, in a file of prices, of nodes without one."""
_BUDGET = "search.budget"


def end_of(until: str, now: datetime) -> datetime:
    """Return the time that `until` means, with its zone: of times of day the next one.

    Raises:
        ValueError: there is no such day.
    """
    if "T" in until:
        return datetime.fromisoformat(until).astimezone()
    hour, minute = map(int, until.split(":"))
    today = now.astimezone().replace(tzinfo=None, hour=hour, minute=minute, second=0, microsecond=0)
    at = today.astimezone()  # local: a change of the clocks may lie before it
    return at if at > now else (today + timedelta(days=1)).astimezone()


def require_time_left(uri: str, budget: BudgetConfig | None) -> None:
    """Refuse a new search whose `search.budget.until` has passed; one that goes on ends by it.

    Raises:
        CheckpointError: the record of what the search has spent is damaged.
        ConfigError: it has passed.
    """
    until, now = budget and budget.until, datetime.now().astimezone()
    if read_spent(uri) is None and until and end_of(until, now) <= now:
        what = f"{_BUDGET}.until={until} has passed; it is {now:%Y-%m-%dT%H:%M%z}"
        raise ConfigError(what, "give a later time", keys=(f"{_BUDGET}.until",))


def read_prices(source: str) -> dict[str, float]:
    """Return dollars an hour by node type from a YAML file or a URI.

    Raises:
        ConfigError: it cannot be read, or is no mapping of names to prices.
    """
    where, remedy = f"search.prices={source}", "write a line for each node type, such as gpu-worker: 1.2"
    try:
        node = compose(read_text(source, where))
        found = {} if node is None else plain_value(node)
    except UnreadableYaml as error:
        what = f"{where}, line {error.line}: {error}"
        raise ConfigError(what, error.remedy or remedy, keys=("search.prices",)) from None
    if not isinstance(found, dict) or not found:
        what = f"{where} holds {format_value(found)}, and not prices by node type"
        raise ConfigError(what, remedy, keys=("search.prices",))
    wrong = [
        Problem(
            f"{where}: the price of {name} is {format_value(price)}",
            "give the dollars of an hour, a number from 0 to 1e12",
            ("search.prices",),
        )
        for name, price in found.items()
        if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price <= 1e12
    ]
    if wrong:
        raise ConfigError(wrong)
    return {str(name): float(price) for name, price in found.items()}


def price_of(nodes: Iterable[tuple[str, str]], prices: Mapping[str, float], source: str) -> float:
    """Return dollars an hour of all nodes together, each given as its types and its address.

    Of several types, parted by spaces, the first that has a price counts.

    Raises:
        ConfigError: a node's type has no price.
    """
    total = 0.0
    for kinds, address in nodes:
        names = kinds.split() or [LOCAL]
        price = next((prices[name] for name in names if name in prices), None)
        if price is None:
            how = "by its labels" if kinds else "which has no label ray.io/node-group or instance-type"
            raise ConfigError(
                f"search.prices={source} has no price of {' or '.join(names)}, the type of the node "
                f"{address}, {how}; it has {', '.join(prices)}",
                f"add a line such as {names[0]}: 1.2",
                keys=("search.prices",),
            )
        total += price
    return total


class Spent(BaseModel):
    """The `spent.json` of a search."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    seconds: NonNegativeFloat = 0.0
    """Seconds that the search has run."""
    gpu_seconds: NonNegativeFloat = 0.0
    """Seconds of GPUs that trials have reserved."""
    dollars: NonNegativeFloat = 0.0
    images_before: NonNegativeInt = 0
    """Images that the trials had trained with when the counting began."""
    until: str | None = None
    """The `search.budget.until` that was given last."""
    until_at: datetime | None = None
    """The time that it means."""

    def plus(self, seconds: float, gpus: float, dollars_per_hour: float) -> Spent:
        """Return what is spent after further seconds."""
        more = {
            "seconds": self.seconds + seconds,
            "gpu_seconds": self.gpu_seconds + seconds * gpus,
            "dollars": self.dollars + seconds * dollars_per_hour / 3600,
        }
        return self.model_copy(update=more)


def read_spent(uri: str) -> Spent | None:
    """Return the `spent.json` of a search; None without one.

    Raises:
        CheckpointError: it is damaged.
    """
    file = storage.join(uri, SPENT)
    if not storage.exists(file):
        return None
    try:
        return Spent.model_validate_json(storage.read_bytes(file))
    except ValidationError as error:
        what = f"{storage.redact(file)} is damaged ({error.errors()[0]['msg']})"
        raise CheckpointError(what, "restore it, or give the search another name (name=...)") from None


@dataclass(frozen=True)
class Reached:
    """A limit of a budget that is reached."""

    key: str
    limit: float | str
    text: str
    """The limit and what was spent, in words."""


class Ledger:
    """The account of a search: what it has spent, and whether its budget is reached.

    Args:
        uri: The search's folder.
        budget: Its budget; None for none.
        images: Images that the trials have trained with so far.
        clock: Seconds of a clock that never goes back.
        now: Returns the time of day, with its zone.

    Raises:
        CheckpointError: the record of an earlier process is damaged.
    """

    def __init__(
        self,
        uri: str,
        budget: BudgetConfig | None,
        images: int,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._file, self._budget = storage.join(uri, SPENT), budget or BudgetConfig()
        self._clock, self._now = clock, now
        earlier, until = read_spent(uri), self._budget.until
        self.spent = earlier or Spent(images_before=images)
        if until != self.spent.until:
            at = end_of(until, now()) if until else None
            self.spent = self.spent.model_copy(update={"until": until, "until_at": at})
        self._rates, self._since = (0.0, 0.0), clock()
        self._charged_to = -math.inf

    def charge(self, gpus: float, dollars_per_hour: float) -> None:
        """Charge the time since the last call; `gpus` and `dollars_per_hour` hold from now on."""
        now = self._clock()
        self.spent = self.spent.plus(now - self._since, *self._rates)
        rates, before = (gpus, dollars_per_hour), self._rates
        self._rates, self._since = rates, now
        if now > self._charged_to - AHEAD_S / 2 or any(
            new > old for new, old in zip(rates, before, strict=True)
        ):
            self._write(self.spent.plus(AHEAD_S, *rates))
            self._charged_to = now + AHEAD_S

    def close(self) -> None:
        """Charge the time since the last call, and write what is spent."""
        self.spent = self.spent.plus(self._clock() - self._since, *self._rates)
        self._rates, self._since, self._charged_to = (0.0, 0.0), self._clock(), -math.inf
        self._write(self.spent)

    def _write(self, spent: Spent) -> None:
        storage.write_bytes(self._file, to_json(spent.model_dump(mode="json")))

    def reached(self, images: int) -> Reached | None:
        """Return the first limit that is reached, with so many images; None below all of them."""
        budget, spent = self._budget, self.spent
        hours = spent.gpu_seconds / 3600
        for key, limit, used, text in (
            ("images", budget.images, images, f"{images:,} images are trained"),
            ("gpu_hours", budget.gpu_hours, hours, f"{hours:.2f} GPU-hours are used"),
            ("dollars", budget.dollars, spent.dollars, f"${spent.dollars:.2f} are spent"),
        ):
            if limit is not None and used >= limit:
                return Reached(key, limit, f"{_BUDGET}.{key}={limit:.15g} is reached: {text}")
        if spent.until_at is not None and budget.until and self._now() >= spent.until_at:
            text = f"it was {spent.until_at.astimezone():%Y-%m-%dT%H:%M}"
            return Reached("until", budget.until, f"{_BUDGET}.until={budget.until} is reached: {text}")
        return None

    def images_left(self, images: int) -> float:
        """Return the images until the first limit at the rates so far; infinite without any that is known."""
        spent, budget = self.spent, self._budget
        done = images - spent.images_before
        left = [math.inf if budget.images is None else budget.images - images]
        seconds_left = (
            (spent.until_at - self._now()).total_seconds() if spent.until_at and budget.until else None
        )
        for limit, used in (
            (budget.gpu_hours and 3600 * budget.gpu_hours, spent.gpu_seconds),
            (budget.dollars, spent.dollars),
            (seconds_left and spent.seconds + seconds_left, spent.seconds),
        ):
            if limit is not None and done > 0 and used > 0:
                left.append((limit - used) * done / used)
        return max(0.0, min(left))
