"""How figures are written. Binary units are named as such; times choose their own unit."""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_flops", "format_mean", "format_ns", "format_rate", "format_share"]


def format_count(count: int) -> str:
    return f"{count:,}"


def format_bytes(count: int) -> str:
    """1536 -> ``1.5 KiB``, 4194304000 -> ``4,000.0 MiB``: up to four digits before the next unit is taken."""
    if abs(count) < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if abs(value) < 9999.95 or unit == "TiB":
            break
    return f"{value:,.1f} {unit}"


def format_ns(ns: int) -> str:
    """1234567 -> ``1.23 ms``: three digits."""
    value, unit = (ns / 1e3, "us") if ns < 999_500 else (ns / 1e6, "ms") if ns < 999_500_000 else (ns / 1e9, "s")
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f} {unit}"


def format_share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}%" if whole else ""


def format_flops(flops: float) -> str:
    """1234567890 -> ``1.23 G``: decimal prefixes, three digits."""
    for prefix in ("", "k", "M", "G", "T"):
        if flops < 999.5:
            return f"{flops:.0f}" if not prefix else f"{_three_digits(flops)} {prefix}"
        flops /= 1000
    return f"{_three_digits(flops)} P"


def format_rate(bytes_per_second: float) -> str:
    """Binary units, as bytes are."""
    return f"{format_bytes(round(bytes_per_second))}/s"


def format_mean(count: float) -> str:
    """A mean of counts: a whole one as such."""
    return f"{count:,.0f}" if count == round(count) else f"{count:,.2f}"


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"
