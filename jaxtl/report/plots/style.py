"""How every picture looks: colours, sizes, and small parts that pictures share. matplotlib by its object interface."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

# Okabe and Ito, Color Universal Design (2008): told apart with any colour vision
BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION)
INK, FAINT, BAND = "#262626", "#8c8c8c", "#ededed"

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.titlesize": 11,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib; `glyphs` finds others for what it lacks
    "font.size": 9,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "text.color": INK,
    "text.parse_math": False,  # a "$" in a title is a "$"
    "text.usetex": False,
    "xtick.color": INK,
    "ytick.color": INK,
}

PERCENT = (0.0, 100.0)


class Panels(NamedTuple):
    """A figure of small panels, and the panels by name."""

    figure: Figure
    of: dict[str, list[Axes]]

    def keep_within(self, row: int, bounds: tuple[float, float]) -> None:
        """Bound a row, once all of it is drawn: limits that are set are shared, and grow no more."""
        for panels in self.of.values():
            panels[row].set_ylim(within(bounds, panels[row].get_ylim()))


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw and save inside of this; matplotlib's settings are the caller's again afterwards."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure, sizes in inches. A `Figure` of its own knows nothing of pyplot, windows or other figures."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    set_title(figure, title)
    return figure


def set_title(figure: Figure, title: str) -> None:
    """A title over the whole figure, flush left; another one takes its place."""
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)


Corner = Literal["outside lower left", "outside lower right", "outside upper right"]


def legend_outside(
    figure: Figure, handles: Sequence[Any], names: Sequence[str], corner: Corner = "outside lower left"
) -> None:
    """A legend outside the panels, in as many columns as fit the figure's width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = [f" {name}" if name.startswith("_") else name for name in names]  # matplotlib hides what begins with "_"
    for columns in range(len(shown), 0, -1):
        legend = figure.legend(handles, shown, loc=corner, ncols=columns, fontsize=8)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            return
        legend.remove()


def within(bounds: tuple[float, float], limits: tuple[float, float]) -> tuple[float, float]:
    """Limits of an axis, within what its values are bounded by: 0 and 100 % of an accuracy, however wide a bar."""
    return max(bounds[0], limits[0]), min(bounds[1], limits[1])


def light_greys() -> LinearSegmentedColormap:
    """So light that numbers and marks can be told on all of it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("light greys", ["#fafafa", "#9a9a9a"])


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Names on the y axis, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")


def explain(axis: Axes, text: str) -> None:
    """What is drawn, above an axis; in several lines where the picture is narrow."""
    axis.set_title(text, loc="left", color=FAINT, wrap=True)


def beside(axis: Axes, y: float, text: str, colour: str = INK) -> None:
    """Text at the height of `y`, to the right of the axis."""
    axis.text(1.015, y, text, transform=axis.get_yaxis_transform(), va="center", color=colour)


def panel_grid(title: str, names: Sequence[str], rows: Sequence[str], shared: Sequence[bool]) -> Panels:
    """A column of small panels per name, six columns side by side and then the next six below.

    Args:
        title: of the figure.
        names: what stands above the columns.
        rows: what stands on the y axis of each row.
        shared: for each row, whether all its panels have one y scale.

    Returns:
        (figure, {name: a panel for each row}).
    """
    columns = min(6, len(names))
    blocks = -(-len(names) // columns)
    figure = new_figure(max(7.4, 0.8 + 2.0 * columns), 0.9 + 1.6 * blocks * len(rows), title)
    panels = figure.subplots(blocks * len(rows), columns, squeeze=False)
    for axis in panels[-len(rows) :, len(names) - columns * (blocks - 1) :].flatten():
        axis.set_axis_off()
    grid: dict[str, list[Axes]] = {}
    for place, name in enumerate(names):
        block, column = divmod(place, columns)
        grid[name] = list(panels[block * len(rows) : (block + 1) * len(rows), column])
        grid[name][0].set_title(name, loc="left", fontweight="bold")
        for row, axis in enumerate(grid[name]):
            if shared[row]:
                axis.sharey(panels[row, 0])
                axis.tick_params(labelleft=column == 0)
            axis.set_ylabel(rows[row] if column == 0 else "")
            axis.tick_params(labelbottom=row == len(rows) - 1)
            axis.locator_params(nbins=4)
    return Panels(figure, grid)


def mark(
    axis: Axes,
    y: float,
    mean: float,
    interval: tuple[float, float],
    colour: str,
    filled: bool = True,
    scale: float = 100.0,
) -> None:
    """A mean and its interval in a row; as they come, fractions are shown in percent."""
    axis.plot([scale * end for end in interval], [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    axis.plot([scale * mean], [y], "o", color=colour, markersize=6, markerfacecolor=colour if filled else "white")


def remark(axis: Axes, text: str) -> None:
    """A word in a panel that has nothing to show."""
    axis.set_xticks([])
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=FAINT)
