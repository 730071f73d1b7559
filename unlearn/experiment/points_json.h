// Points as JSON and as lines of CSV. Include in .cpp files only.
#pragma once

#include <ostream>
#include <string>

#include "tensor/base/json.h"
#include "unlearn/experiment/frontier.h"

namespace uipe::unlearn {

inline Json json_of(const Points& points) {
    Json out = Json::array();
    for (const TradeoffPoint& p : points)
        out.push_back({{"epoch", p.epoch},
                       {"alpha", p.alpha},
                       {"model_utility", p.utility},
                       {"forget_quality", p.of(Rows::all)},
                       {"forget_quality_even_rows", p.of(Rows::even)},
                       {"forget_quality_odd_rows", p.of(Rows::odd)},
                       {"forget_truth_ratio_median", p.truth_ratio}});
    return out;
}

inline constexpr const char* points_head =
    "epoch,alpha,model_utility,forget_quality,forget_quality_even_rows,forget_quality_odd_rows,"
    "forget_truth_ratio_median\n";

inline void write_points(std::ostream& out, const std::string& before, const Points& points) {
    for (const TradeoffPoint& p : points)
        out << before << ',' << p.epoch << ',' << p.alpha << ',' << p.utility << ',' << p.of(Rows::all) << ','
            << p.of(Rows::even) << ',' << p.of(Rows::odd) << ',' << p.truth_ratio << '\n';
}

}  // namespace uipe::unlearn
