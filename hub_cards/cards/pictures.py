"""The loss curve of a training as a small picture beside its card."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

LOSS_PICTURE = "loss.png"
Points = Sequence[tuple[float, float]]  # (step, loss)


def draw_losses(losses: Mapping[str, Points], folder: str | Path) -> bool:
    """Draw curves by name, such as "training" and "evaluation", into the folder's `loss.png` (some 15 kB).

    Returns: whether there is a picture; none without matplotlib (an extra), or without a curve of two points.
    """
    curves = {name: points for name, points in losses.items() if len(points) > 1 or (points and len(losses) > 1)}
    if not any(len(points) > 1 for points in curves.values()) or importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=80, layout="constrained")  # no global state, no window
    axes = figure.add_subplot()
    for name, points in curves.items():
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, label=name, linewidth=1.5, marker="o" if name != "training" else None, markersize=4)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    Path(folder).mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(Path(folder) / LOSS_PICTURE), metadata={"Software": None})
    return True
