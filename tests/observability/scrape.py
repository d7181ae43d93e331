"""/metrics, as Prometheus reads it."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import wait_until_sync


def scrape(url: str, **headers: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Returns every sample of a gateway, by name and labels."""
    answer = httpx.get(f"{url}/metrics", headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    """Returns the sum of a metric's samples that have these labels, whatever other labels they have."""
    wanted = frozenset(labels.items())
    return sum(found for (known, has), found in scrape(url).items() if known == name and wanted <= has)


def reaches(expected: int, url: str, name: str, **labels: str) -> None:
    """Waits until `value` is the expected one: a request is counted a moment after its client has the answer."""
    wait_until_sync(lambda: value(url, name, **labels) == expected, what=f"{name} is {expected}")
