"""Figures as inline SVG: drawn by matplotlib, coloured by the page's own style sheet.

matplotlib writes colours and fonts into style attributes, which no dark mode can change and a strict content policy
refuses. So figures are drawn in marker colours, and ``clean`` turns those into classes (``s-c1``: stroke in colour 1,
``f-ink``: fill in the colour of text) that ``style.css`` gives their light and dark values. Text stays text, in the
page's own font.
"""

import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trimtab.common.stats import Estimate
from trimtab.report.read import Series

COLORS = ("c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8")
MARKERS = {name: f"#0000{i:02x}" for i, name in enumerate(("ink", "muted", "grid", "paper", *COLORS), start=1)}
NAMES = {marker: name for name, marker in MARKERS.items()}

WIDTH, HEIGHT = 372, 208
FONT = 11.5
MOST_POINTS = 500
"""More points than this are averaged in equal groups: no screen shows more."""
SMOOTH_FROM = 40
"""Lines of at least so many points are drawn faintly, with their running mean over a twelfth of the run on top."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimtab",
    "text.parse_math": False,
    "font.size": FONT,
    "font.family": ["DejaVu Sans"],
    "text.color": MARKERS["ink"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": MARKERS["muted"],
    "axes.linewidth": 0.8,
    "axes.labelcolor": MARKERS["muted"],
    "axes.labelsize": FONT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": MARKERS["grid"],
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
} | {
    f"{axis}.{name}": value
    for axis in ("xtick", "ytick")
    for name, value in (
        ("color", MARKERS["muted"]),
        ("labelsize", FONT),
        ("major.size", 0),
        ("minor.size", 0),
        ("major.pad", 5),
    )
}


@dataclass(frozen=True)
class Line:
    """One curve; ``color`` is one of ``COLORS``. ``sparse`` curves (evaluations) get a dot at each point."""

    label: str
    series: Series
    color: str
    sparse: bool = False


@dataclass(frozen=True)
class Whisker:
    """One row of an interval chart."""

    label: str
    estimate: Estimate
    color: str


@dataclass(frozen=True)
class Point:
    """A model on the reward-KL plane. ``bound``: x is an upper bound, drawn hollow."""

    label: str
    x: Estimate
    y: Estimate
    color: str
    bound: bool = False


def line_chart(lines: Sequence[Line], *, xlabel: str, described: str, reference: float | None = None) -> Markup:
    """Curves over steps. ``reference`` is a dashed level (chance, zero), ``described`` the text for screen readers."""
    figure, axes = _figure(WIDTH, HEIGHT)
    if reference is not None:
        axes.axhline(reference, color=MARKERS["muted"], linewidth=0.9, dashes=(3, 3), zorder=1)
    for line in lines:
        _draw(axes, line)
    axes.set_xlabel(xlabel)
    steps = [s for line in lines for s in line.series.finite().steps]
    if steps and min(steps) < max(steps):
        axes.set_xlim(min(steps), max(steps))
    axes.margins(y=0.08)
    _ticks(axes)
    return finish(figure, described)


def interval_chart(
    rows: Sequence[Whisker], *, described: str, reference: float | None = None, scale: float = 1.0, xlabel: str = ""
) -> Markup:
    """One dot and whisker a row, first row on top; values are multiplied by ``scale``."""
    figure, axes = _figure(WIDTH, 34 * len(rows) + (58 if xlabel else 40))
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.spines["bottom"].set_visible(False)
    if reference is not None:
        axes.axvline(reference * scale, color=MARKERS["muted"], linewidth=1.0, dashes=(3, 3), zorder=1)
    for i, row in enumerate(rows):
        e, color = row.estimate, MARKERS[row.color]
        if math.isfinite(e.low) and math.isfinite(e.high):
            axes.plot([e.low * scale, e.high * scale], [i, i], color=color, linewidth=2.6, alpha=0.55, zorder=2)
        axes.plot([e.value * scale], [i], "o", color=color, markersize=7, markeredgewidth=0, zorder=3)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.tick_params(axis="y", labelcolor=MARKERS["ink"])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))
    return finish(figure, described)


def frontier_chart(
    points: Sequence[Point],
    paths: Sequence[Line],
    *,
    ylabel: str,
    described: str,
    xlabel: str = "√KL, √nats per answer",
) -> Markup:
    """Score against the square root of KL: models with their intervals, and the way that training took."""
    figure, axes = _figure(WIDTH + 60, 300)
    for path in paths:
        x, y = (np.array(a) for a in (path.series.steps, path.series.values))
        color = MARKERS[path.color]
        axes.plot(x, y, color=color, linewidth=1.1, alpha=0.35, zorder=1)
        shade = np.linspace(0.25, 0.9, len(x))
        for xi, yi, alpha in zip(x, y, shade, strict=True):
            axes.plot([xi], [yi], "o", color=color, markersize=3.2, markeredgewidth=0, alpha=float(alpha), zorder=2)
    for p in points:
        color = MARKERS[p.color]
        for low, high, flat in ((p.x.low, p.x.high, True), (p.y.low, p.y.high, False)):
            if math.isfinite(low) and math.isfinite(high):
                ends = ([low, high], [p.y.value] * 2) if flat else ([p.x.value] * 2, [low, high])
                axes.plot(*ends, color=color, linewidth=2.2, alpha=0.6, zorder=3)
        face = MARKERS["paper"] if p.bound else color
        axes.plot([p.x.value], [p.y.value], "o", color=color, markerfacecolor=face, markersize=7.5, zorder=4)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.margins(x=0.14, y=0.14)
    axes.set_xlim(left=min(-0.15, axes.get_xlim()[0]) if points or paths else None)
    _ticks(axes)
    _label_points(figure, axes, points)
    return finish(figure, described)


def calibration_chart(points: Sequence[tuple[float, Estimate]], *, described: str) -> Markup:
    """How often the reward model is right against how sure it was; on the diagonal it is as right as it is sure."""
    figure, axes = _figure(WIDTH, HEIGHT)
    axes.plot([0.5, 1], [0.5, 1], color=MARKERS["muted"], linewidth=0.9, dashes=(3, 3), zorder=1)
    for confidence, e in points:
        if math.isfinite(e.low) and math.isfinite(e.high):
            axes.plot([confidence] * 2, [e.low, e.high], color=MARKERS["c1"], linewidth=2.2, alpha=0.55, zorder=2)
        axes.plot([confidence], [e.value], "o", color=MARKERS["c1"], markersize=6, markeredgewidth=0, zorder=3)
    axes.set_xlim(0.48, 1.02)
    axes.set_xlabel("confidence of the reward model")
    _ticks(axes)
    return finish(figure, described)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(width / 72, height / 72), dpi=72, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03)
        )
        FigureCanvasSVG(figure)
        return figure, figure.add_subplot()


def _draw(axes: Axes, line: Line) -> None:
    x, y = thin(line.series)
    color = MARKERS[line.color]
    if line.sparse or len(x) < 12:
        axes.plot(x, y, color=color, linewidth=1.7, marker="o", markersize=4, markeredgewidth=0, zorder=4)
    elif len(x) < SMOOTH_FROM:
        axes.plot(x, y, color=color, linewidth=1.7, zorder=3)
    else:
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.3, zorder=2)
        axes.plot(x, running_mean(y, len(y) // 25), color=color, linewidth=1.9, zorder=3)


def thin(series: Series) -> tuple[np.ndarray, np.ndarray]:
    """Finite points, averaged in groups of equal size when there are more than ``MOST_POINTS``."""
    finite = series.finite()
    x, y = np.array(finite.steps), np.array(finite.values)
    if len(x) <= MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), MOST_POINTS)
    return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])


def running_mean(values: np.ndarray, half: int) -> np.ndarray:
    """Mean over the 2 * half + 1 values around each; near the ends over those of them that there are."""
    sums = np.concatenate(
        [[0.0], np.cumsum(values - values[0])]
    )  # from the first value: a constant stays exactly itself
    i = np.arange(len(values))
    low, high = np.maximum(i - half, 0), np.minimum(i + half + 1, len(values))
    return values[0] + (sums[high] - sums[low]) / (high - low)


def _ticks(axes: Axes) -> None:
    low, high = axes.get_ylim()
    least = 2e-3 * max(abs(low), abs(high))
    if high - low < least:  # rounding noise of a constant is no curve
        middle = (low + high) / 2
        axes.set_ylim(middle - least / 2, middle + least / 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda v, _: short(v)))


def short(value: float) -> str:
    """A number for an axis or a legend: 0.0031, 1.25, 12,000, 3e-07, with a true minus sign."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size >= 1000:
        out = f"{value:,.0f}" if size < 1e7 else f"{value:.3g}"
    elif size != 0 and size < 1e-3:
        out = f"{value:.2g}"
    else:
        out = f"{value:.4g}"
    return "0" if out == "-0" else out.replace("-", "\u2212") if out.startswith("-") else out


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Names beside the points, at the first of several places that covers no point, no whisker and no other name."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = [box for p in points for box in _boxes(axes, p)]
    for p in sorted(points, key=lambda p: -p.y.value):
        x, y = axes.transData.transform((p.x.value, p.y.value))
        width = 0.6 * FONT * len(p.label)
        places = [(side, dy) for dy in (5, -15, 18, -28, 31, -41) for side in (1, -1)]
        for side, dy in places:
            left = x + 9 if side > 0 else x - 9 - width
            box = (left, y + dy - 2, left + width, y + dy + FONT)
            inside = frame.x0 <= box[0] and box[2] <= frame.x1 + 4 and frame.y0 <= box[1] and box[3] <= frame.y1
            if inside and not any(_overlap(box, other) for other in taken):
                break
        else:
            side, dy = places[0]
        taken.append(box)
        axes.annotate(
            p.label,
            (p.x.value, p.y.value),
            (9 * side, dy),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            color=MARKERS[p.color],
            zorder=5,
        )


Box = tuple[float, float, float, float]


def _boxes(axes: Axes, p: Point) -> list[Box]:
    """What a point and its two whiskers cover, in the figure's units."""
    x, y = axes.transData.transform((p.x.value, p.y.value))
    out = [(x - 6, y - 6, x + 6, y + 6)]
    if math.isfinite(p.x.low) and math.isfinite(p.x.high):
        out.append(
            (axes.transData.transform((p.x.low, 0))[0], y - 2, axes.transData.transform((p.x.high, 0))[0], y + 2)
        )
    if math.isfinite(p.y.low) and math.isfinite(p.y.high):
        out.append(
            (x - 2, axes.transData.transform((0, p.y.low))[1], x + 2, axes.transData.transform((0, p.y.high))[1])
        )
    return out


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ---- matplotlib's SVG -> the page's ----------------------------------------------------------------------------------


def finish(figure: Figure, described: str) -> Markup:
    """The figure as an inline SVG element."""
    out = io.StringIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw the text, not ours
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return clean(out.getvalue(), described)


def clean(svg: str, described: str) -> Markup:
    """Classes for colours, attributes for the rest; no style, metadata or namespaces, ids that no other figure has."""
    root = ET.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    prefix = f"g{zlib.crc32((svg + described).encode()):x}-"
    for element in root.iter():
        attributes = dict(element.attrib)
        element.attrib.clear()
        for key, value in attributes.items():
            _attribute(element, key.rpartition("}")[2], value, prefix)
    _drop_empty(root)
    x0, y0, width, height = root.get("viewBox", "0 0 1 1").split()
    root.attrib.clear()
    root.attrib.update(
        {"viewBox": f"{x0} {y0} {width} {height}", "role": "img", "aria-label": described, "class": "figure"}
    )
    for element in root.iter():  # line breaks that matplotlib puts between commands and elements
        if element.tag != "text":
            element.text = None
        element.tail = None
        if "d" in element.attrib:
            element.set("d", LONG.sub(lambda m: f"{float(m[0]):.2f}", " ".join(element.attrib["d"].split())))
    return Markup(ET.tostring(root, encoding="unicode"))


def _attribute(element: ET.Element, key: str, value: str, prefix: str) -> None:
    if key == "style":
        _style(element, value)
    elif key == "id":
        if element.tag != "g":  # only what is referred to needs a name
            element.set("id", prefix + value)
    elif key == "href":
        element.set("href", f"#{prefix}{value.removeprefix('#')}")
    elif key == "clip-path":
        element.set("clip-path", value.replace("url(#", f"url(#{prefix}"))
    elif key == "transform" and value.startswith("rotate(-0 "):
        pass
    else:
        element.set(key, value)


LONG = re.compile(r"-?\d+\.\d{3,}")
PLAIN = (
    "stroke-width",
    "stroke-dasharray",
    "stroke-dashoffset",
    "stroke-opacity",
    "fill-opacity",
    "opacity",
    "text-anchor",
)


def _style(element: ET.Element, style: str) -> None:
    """``stroke: #000005; opacity: 0.3`` -> class and attributes. Fonts are the page's; joins are in its style sheet."""
    classes = []
    for part in style.split(";"):
        key, _, value = part.partition(":")
        key, value = key.strip(), value.strip()
        if key in ("fill", "stroke"):
            if value in NAMES:
                classes.append(f"{key[0]}-{NAMES[value]}")
            elif value == "none":
                element.set(key, "none")
        elif key in PLAIN:
            element.set(key, value)
    if classes:
        element.set("class", " ".join(classes))


def _drop_empty(element: ET.Element) -> None:
    """Removes groups without content and invisible background paths."""
    for child in list(element):
        _drop_empty(child)
        invisible = child.tag == "path" and child.get("fill") == "none" and "class" not in child.attrib
        if invisible or (child.tag in ("g", "defs") and not len(child)):
            element.remove(child)
