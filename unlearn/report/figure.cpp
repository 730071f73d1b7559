#include "unlearn/report/figure.h"

#include <algorithm>

#include "tensor/base/error.h"
#include "unlearn/report/html.h"

namespace uipe::unlearn {

std::string figure(const Plot& plot, const std::string& id, const std::string& title, const std::string& caption,
                   const std::string& css) {
    const auto has_points = [](const Series& s) { return !s.points.empty(); };
    if (std::none_of(plot.series.begin(), plot.series.end(), has_points)) return "";
    const Drawing drawing = draw(plot, id);
    const std::string picture = drawing.svg.empty()
                                    ? cat("<p class=\"missing\">No picture: ", escaped(drawing.why_not), ".</p>")
                                    : cat("<div class=\"plot\">", drawing.svg, "</div>");
    return cat("<figure class=\"", css, "\"><h3>", title, "</h3>", picture,
               caption.empty() ? "" : cat("<figcaption>", caption, "</figcaption>"), "</figure>\n");
}

}  // namespace uipe::unlearn
