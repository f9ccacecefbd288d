"""How figures are written. Binary units are named as such; times choose their own unit."""

from __future__ import annotations

__all__ = ["format_bytes", "format_count", "format_flops", "format_ns", "format_rate"]


def format_count(count: float) -> str:
    """1234567 -> ``1,234,567``. A mean of counts has two digits behind the point, unless it is a whole number."""
    if isinstance(count, int):
        return f"{count:,}"
    return f"{count:,.0f}" if count == round(count) else f"{count:,.2f}"


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
    if ns < 999_500:
        return f"{_three_digits(ns / 1e3)} us"
    return f"{_three_digits(ns / 1e6)} ms" if ns < 999_500_000 else f"{_three_digits(ns / 1e9)} s"


def format_flops(flops: float) -> str:
    """1234567890 -> ``1.23 G``: decimal prefixes, three digits."""
    for prefix in ("", "k", "M", "G", "T"):
        if flops < 999.5:
            return f"{flops:.0f}" if not prefix else f"{_three_digits(flops)} {prefix}"
        flops /= 1000
    return f"{_three_digits(flops)} P"


def format_rate(bytes_per_second: float) -> str:
    """1536.0 -> ``1.5 KiB/s``: binary units, as bytes have."""
    return f"{format_bytes(round(bytes_per_second))}/s"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:,.0f}"
