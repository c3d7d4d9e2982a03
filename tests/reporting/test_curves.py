"""The plot over a choice's values: every method's line and, where there are seeds, its band."""

import numpy as np

from pocketvit.reporting.curves import curve_plot


def test_lines_hold_the_means_and_bands_only_where_seeds_are():
    seeds = {"BatchNorm": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "GroupNorm": [[2.0, 2.5, 3.0], [2.0, 3.0, 4.0]]}
    single = {"GroupNorm": [[24.1], [24.2]]}
    ours, published = curve_plot({"ours": seeds, "published": single}, (32, 2), "images a batch").axes
    assert [line.get_label() for line in ours.get_lines()] == ["BatchNorm", "GroupNorm"]
    assert np.allclose(ours.get_lines()[0].get_ydata(), (2.0, 5.0))
    assert np.allclose(published.get_lines()[0].get_ydata(), (24.1, 24.2))
    assert (len(ours.collections), len(published.collections)) == (2, 0)
    assert ours.get_lines()[1].get_color() == published.get_lines()[0].get_color()
