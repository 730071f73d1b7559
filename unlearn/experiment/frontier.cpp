#include "unlearn/experiment/frontier.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "unlearn/experiment/statistics.h"
#include "unlearn/report/parts.h"
#include "unlearn/selection.h"

namespace uipe::unlearn {

Points pareto_front(const Points& points, Rows rows) {
    const auto beats = [rows](const TradeoffPoint& a, const TradeoffPoint& b) {
        return a.utility >= b.utility && a.of(rows) >= b.of(rows) && (a.utility > b.utility || a.of(rows) > b.of(rows));
    };
    Points front;
    for (const TradeoffPoint& p : points)
        if (std::none_of(points.begin(), points.end(), [&](const TradeoffPoint& q) { return beats(q, p); }))
            front.push_back(p);
    return front;
}

const TradeoffPoint& chosen(const Points& points, double floor, Rows rows) {
    std::vector<Candidate> candidates;
    for (const TradeoffPoint& p : points) candidates.push_back({"", p.of(rows), p.utility});
    return points[select(candidates, floor).index];
}

Points ours(const Cell& cell, Rival rival, Rows rows) {
    const bool ended = rival == Rival::ended || rival == Rival::ended_later;
    Points out{ended ? cell.ended.back() : cell.constant[static_cast<std::size_t>(cell.base_of(rows))]};
    const Points& ladder = ended ? cell.uipe_ended : cell.extrapolated(rows);
    out.insert(out.end(), ladder.begin(), ladder.end());
    return out;
}

Points theirs(const Cell& cell, Rival rival, Rows rows) {
    switch (rival) {
        case Rival::own:
            return {cell.constant.begin() + 1, cell.constant.begin() + 1 + cell.base_of(rows)};
        case Rival::constant:
            return {cell.constant.begin() + 1, cell.constant.end()};
        case Rival::decayed:
            return {cell.decayed.begin() + 1, cell.decayed.end()};
        case Rival::ended:
            return {cell.ended.back()};
        default:
            return {cell.decayed.back()};
    }
}

Comparison compare(const Cell& cell, Rival rival, Rows choice, Rows judged) {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    if (cell.full().of(judged) > forget_quality_threshold) return {nan, nan, nan, nan};
    const Points a = ours(cell, rival, choice);
    const Points b = theirs(cell, rival, choice);
    const TradeoffPoint& p = chosen(a, cell.floor(), choice);
    const TradeoffPoint& q = chosen(b, cell.floor(), choice);
    const auto passes = [&](const TradeoffPoint& x) {
        return x.of(judged) > forget_quality_threshold && x.utility >= cell.floor() ? 1.0 : 0.0;
    };
    return {log_quality(p.of(judged)) - log_quality(q.of(judged)), p.utility - q.utility, passes(p), passes(q)};
}

Comparison compare_halves(const Cell& cell, Rival rival) {
    const Comparison a = compare(cell, rival, Rows::even, Rows::odd);
    const Comparison b = compare(cell, rival, Rows::odd, Rows::even);
    return {(a.quality + b.quality) / 2, (a.utility + b.utility) / 2, (a.uipe_passes + b.uipe_passes) / 2,
            (a.rival_passes + b.rival_passes) / 2};
}

}  // namespace uipe::unlearn
