"""What not every base kernel has: tests and scenarios say what they need, `kernel.toml` what is lacking, and why."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from harness import testbed
from harness.errors import UserError
from harness.source import KernelSpec


def skip_what_is_lacking(items: Sequence[pytest.Item], kernel: str) -> None:
    """Mark the tests that need what this kernel lacks as skipped, with the manifest's reason.

    Raises pytest.UsageError: a test needs something that every kernel has, so it is most likely misspelt; or there is
    no such kernel.
    """
    needy = [item for item in items if item.get_closest_marker("needs")]
    if not needy:
        return
    try:
        specs = {name: testbed.kernel_spec(name) for name in testbed.kernel_names()}
        spec = testbed.kernel_spec(kernel)
    except UserError as e:
        raise pytest.UsageError(str(e)) from e
    known = {capability for each in specs.values() for capability in each.lacks}
    for item in needy:
        needed = [name for marker in item.iter_markers("needs") for name in marker.args]
        unknown = sorted(set(needed) - known)
        if unknown:
            raise pytest.UsageError(
                f"{item.nodeid}: needs {', '.join(unknown)}, which no kernel lacks (kernel/*/kernel.toml: lacks)"
            )
        _skip(item, needed, spec)


def _skip(item: pytest.Item, needed: Sequence[str], spec: KernelSpec) -> None:
    for name in needed:
        if name in spec.lacks:
            item.add_marker(pytest.mark.skip(reason=f"kernel {spec.name} has no {name}: {spec.lacks[name]}"))
