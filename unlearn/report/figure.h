// A plot as a figure of a page.
#pragma once

#include <string>

#include "unlearn/report/plot.h"

namespace uipe::unlearn {

/// `<figure>` with a title, the picture (or a line on why there is none) and a caption, all HTML already; "" for a plot
/// without points. `id` must differ between the plots of a page.
std::string figure(const Plot& plot, const std::string& id, const std::string& title, const std::string& caption,
                   const std::string& css = "");

}  // namespace uipe::unlearn
