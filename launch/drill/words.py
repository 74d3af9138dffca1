"""A drill in words: figures as people read them, and the verdict. Pure."""

from holdfast.launch.drill.figures import Figures, Percentiles, count

NOTHING = "–"


def seconds_text(seconds: float | None) -> str:
    """Return a duration with three digits and its unit, `412 ms`; a dash for None."""
    if seconds is None:
        return NOTHING
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{_three(seconds * 1e3)} ms"
    return f"{_three(seconds)} s"


def _three(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}"


def percentiles_text(values: Percentiles) -> str:
    """Return `412 ms / 2.10 s`, or a dash."""
    if values.p50 is None:
        return NOTHING
    return f"{seconds_text(values.p50)} / {seconds_text(values.p99)}"


def percent_text(share: float | None) -> str:
    """Return `87.3 %`, or a dash."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def headline(figures: Figures) -> str:
    """Return the verdict in a word or two."""
    if figures.promise_kept:
        return "Held"
    finished = figures.weights_identical and not figures.steps_lost
    return "Broken" if figures.faults or not finished else "Nothing happened"


def verdict(figures: Figures) -> list[str]:
    """Return the verdict in sentences: why it held, or one for each promise that was broken."""
    if not figures.promise_kept:
        return list(figures.broken_promises)
    faults = count(len(figures.faults), "fault")
    lost = count(figures.links_lost, "lost link")
    told = f"{faults} and {lost}"
    if figures.restarts:
        told = f"{faults}, {lost} and {count(figures.restarts, 'restart')}"
    said = [f"Weights identical, bit for bit, after {told}."]
    if figures.faults_never_began:
        said.append(f"{count(len(figures.faults_never_began), 'planned fault')} never began.")
    kept = f"All {figures.samples_committed:,} samples are counted and no step is lost"
    if figures.steps_repeated:
        again = count(figures.steps_repeated, "step")
        return [*said, f"{kept}; {again} had to be repeated from a checkpoint."]
    return [*said, f"{kept} or repeated."]
