"""Many cases in one test: what the tests' own checks cost is paid for each test."""

from collections.abc import Callable, Iterable
from typing import Any


def for_each(names: str, cases: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As ``pytest.mark.parametrize``, within one test, which says on failure what case it was."""
    cases = list(cases)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        def run(**others: Any) -> None:
            for case in cases:
                values = dict(zip(names.split(", "), case if ", " in names else (case,), strict=True))
                try:
                    test(**values, **others)
                except BaseException:
                    print(f"with {values}")
                    raise

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate
