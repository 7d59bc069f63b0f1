"""What a scrape said, as numbers. It decides nothing."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

Labels = tuple[tuple[str, str], ...]


def scraped(text: bytes) -> dict[tuple[str, Labels], float]:
    """Every sample of a scrape by its name and its sorted labels. Each may stand there once."""
    samples: dict[tuple[str, Labels], float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(text: bytes, name: str, **labels: str) -> float | None:
    """The sum of all samples of this name that have these labels; None when there is none."""
    wanted = set(labels.items())
    found = [number for (said, has), number in scraped(text).items() if said == name and wanted <= set(has)]
    return sum(found) if found else None
