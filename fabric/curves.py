"""Curves of a picture: between two points, shortened, moved aside, written as an SVG path. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """A place in pixels, from the upper left."""

    x: float
    y: float


class Curve(NamedTuple):
    """A quadratic Bézier curve."""

    start: Point
    bend: Point
    end: Point

    def at(self, part: float) -> Point:
        """Return the point after `part` of it, from 0 to 1."""
        return self.until(part).end

    def until(self, part: float) -> "Curve":
        """Return its beginning, after De Casteljau."""
        first = between(self.start, self.bend, part)
        second = between(self.bend, self.end, part)
        return Curve(self.start, first, between(first, second, part))

    def turned(self) -> "Curve":
        """Return it from its end to its start."""
        return Curve(self.end, self.bend, self.start)

    def without(self, start: float, end: float) -> "Curve":
        """Return it without so many pixels at either end, about; some of it always stays."""
        length = math.dist(self.start, self.end) or 1.0
        scale = min(1.0, 0.8 * length / (start + end)) if start + end else 1.0
        short = self.until(1 - scale * end / length).turned()
        left = math.dist(short.start, short.end) or 1.0
        return short.until(max(0.1, 1 - scale * start / left)).turned()

    def aside(self, distance: float) -> "Curve":
        """Return it moved to the right, as one travels; its ends stay at their height if they can.

        A cable that is nearly level is moved upwards or downwards instead.
        """
        x, y = self.end.x - self.start.x, self.end.y - self.start.y
        length = math.hypot(x, y) or 1.0
        if abs(y) > 0.2 * length:
            move = Point(-distance * length / y, 0.0)
        else:
            move = Point(-y / length * distance, x / length * distance)
        return Curve(*(Point(point.x + move.x, point.y + move.y) for point in self))


def between(a: Point, b: Point, part: float) -> Point:
    """Return the point that is `part` of the way from `a` to `b`."""
    return Point(a.x + (b.x - a.x) * part, a.y + (b.y - a.y) * part)


def svg_path(curves: Sequence[Curve], corners: Sequence[Point] = ()) -> str:
    """Return curves one after the other as a path, joined by curves around `corners`."""
    said = [f"M{spot(curves[0].start)}"]
    for place, curve in enumerate(curves):
        if place:
            said.append(f"Q{spot(corners[place - 1])} {spot(curve.start)}")
        said.append(f"Q{spot(curve.bend)} {spot(curve.end)}")
    return "".join(said)


def arrow_head(curve: Curve) -> str:
    """Return an arrow's head at the end of a curve."""
    length = math.dist(curve.bend, curve.end) or 1.0
    x, y = (curve.end.x - curve.bend.x) / length, (curve.end.y - curve.bend.y) / length
    points = ((7, 0), (-1, 4), (-1, -4))
    corners = (
        Point(curve.end.x + x * along - y * across, curve.end.y + y * along + x * across)
        for along, across in points
    )
    return "M" + "L".join(map(spot, corners)) + "Z"


def spot(point: Point) -> str:
    """Return a point as a path has it."""
    return f"{short(point.x)} {short(point.y)}"


def short(value: float) -> str:
    """Return a number as short as a tenth of a pixel allows."""
    return f"{value:.1f}".removesuffix(".0")
