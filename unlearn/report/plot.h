// Plots drawn by gnuplot, run as a child process: numbers go in through a script in a temporary folder, an SVG comes
// out.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace uipe::unlearn {

enum class Line { none, solid, dashed };
enum class Marker { none, dot, ring, diamond, star };

/// Points joined in their order. Points that are not finite are left out.
struct Series {
    std::vector<std::pair<double, double>> points;
    int color = 0;  // index of plot_color
    Line line = Line::solid;
    Marker marker = Marker::dot;
};

/// The axis names are the caller's own words, never text from a file; a legend is the page's affair.
struct Plot {
    std::string x_label;
    std::string y_label;
    bool whole_x = false;  // marks whole numbers only
    bool log_y = false;
    double log_floor = 1e-12;              // with log_y, smaller values are drawn here; above 0
    std::optional<double> threshold = {};  // a horizontal dotted line
    std::vector<Series> series = {};
    int width = 440;  // of the SVG's view box; the page scales it
    int height = 320;
};

/// Either an `<svg>` element to put into a page, or one sentence on why there is none.
struct Drawing {
    std::string svg;
    std::string why_not;
};

/// "#rrggbb", legible on white and on black; indices go round.
std::string plot_color(int index);

/// Never throws for want of gnuplot. Ids in the SVG begin with `id`, which must differ between the plots of one page.
/// Black comes out as `currentColor`, so that the drawing follows the page's colour scheme.
Drawing draw(const Plot& plot, const std::string& id);

}  // namespace uipe::unlearn
