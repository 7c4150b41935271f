"""Routers. Each built-in is one function on array views: called as it is live, compiled in the simulator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from heterarch.errors import UnknownNameError
from heterarch.policy.base import RouterView


def least_pending_tokens(view: RouterView) -> int:
    """The healthy engine with the fewest pending tokens; the lowest row on a tie.

    Join-the-shortest-queue by tokens, as the token-level JSQ of Splitwise (arXiv 2311.18677, section 4.4).
    """
    best = -1
    for row in range(view.pending_tokens.shape[0]):
        if view.healthy[row] and (best < 0 or view.pending_tokens[row] < view.pending_tokens[best]):
            best = row
    return best


def prefix_affinity(view: RouterView) -> int:
    """The healthy engine with the least pending plus uncached tokens; on a tie the chat's last engine, then the lowest.

    Cost-based prefix affinity as in Mooncake's conductor (arXiv 2407.00079, algorithm 1) with tokens for seconds: a
    cached prefix is worth exactly the queue it saves.
    """
    best = -1
    best_tokens = 0
    for row in range(view.pending_tokens.shape[0]):
        if not view.healthy[row]:
            continue
        tokens = view.pending_tokens[row] + view.prompt_tokens - view.cached_tokens[row]
        if best < 0 or tokens < best_tokens or (tokens == best_tokens and row == view.last_engine):
            best = row
            best_tokens = tokens
    return best


@dataclass(frozen=True, slots=True)
class BuiltinRouter:
    """A built-in router: its name and its decision function."""

    name: str
    function: Callable[[RouterView], int]

    def decide(self, view: RouterView) -> int:
        """The row of the chosen engine."""
        return self.function(view)


#: built-in routers by name, in the order of the codes that the compiled simulator uses
ROUTERS: dict[str, BuiltinRouter] = {
    "least-pending-tokens": BuiltinRouter("least-pending-tokens", least_pending_tokens),
    "prefix-affinity": BuiltinRouter("prefix-affinity", prefix_affinity),
}


def router(name: str) -> BuiltinRouter:
    """The built-in router of that name.

    Raises:
        UnknownNameError: no such router.
    """
    try:
        return ROUTERS[name]
    except KeyError:
        raise UnknownNameError("router", name, ROUTERS) from None
