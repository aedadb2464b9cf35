"""needs.py: tests that need what a kernel lacks are skipped, with the manifest's reason."""

from __future__ import annotations

import pytest

from harness import needs, testbed
from harness.source import KernelSpec

SPEC = testbed.kernel_spec("2.6.31").model_copy(update={"lacks": {"teleport": "it is not invented"}})


@pytest.fixture(autouse=True)
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SPEC.model_copy(update={"name": "6.1", "lacks": {}})
    kernels: dict[str, KernelSpec] = {"2.6.31": SPEC, "6.1": other}
    monkeypatch.setattr(testbed, "kernel_names", lambda: list(kernels))
    monkeypatch.setattr(testbed, "kernel_spec", lambda name: kernels[name])


def items(pytester: pytest.Pytester, marker: str) -> list[pytest.Item]:
    return pytester.getitems(f"import pytest\n{marker}\ndef test_a(): pass\ndef test_b(): pass\n")


pytest_plugins = ["pytester"]


def test_reason(pytester: pytest.Pytester) -> None:
    found = items(pytester, '@pytest.mark.needs("teleport")')
    needs.skip_what_is_lacking(found, "2.6.31")
    skip = found[0].get_closest_marker("skip")
    assert skip is not None
    assert skip.kwargs["reason"] == "kernel 2.6.31 has no teleport: it is not invented"
    assert found[1].get_closest_marker("skip") is None


def test_a_kernel_that_has_it(pytester: pytest.Pytester) -> None:
    found = items(pytester, '@pytest.mark.needs("teleport")')
    needs.skip_what_is_lacking(found, "6.1")
    assert found[0].get_closest_marker("skip") is None


def test_what_no_kernel_lacks_is_a_slip_of_the_pen(pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="needs teleprot, which no kernel lacks"):
        needs.skip_what_is_lacking(items(pytester, '@pytest.mark.needs("teleprot")'), "6.1")
