#include "unlearn/alpha.h"

#include <cmath>
#include <cstdio>

#include "tensor/base/error.h"

namespace uipe::unlearn {
namespace {

std::string short_text(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.4g", x);
    return text;
}

class Search {
public:
    Search(const std::function<AlphaMeasure(double)>& measure, double budget) : measure_(measure), budget_(budget) {}

    AlphaChoice run() {
        const AlphaMeasure start = measure_(0.0);
        require(std::isfinite(start.gap) && std::isfinite(start.utility),
                "the unlearned model itself gives no finite figures to choose alpha by");
        choice_.utility_floor = (1 - budget_) * start.utility;
        choice_.tried.push_back({0.0, start, true});
        if (start.gap <= 0) {
            choice_.reason = "no gap is left at alpha 0: the unlearned model has forgotten as much already, or more";
            return choice_;
        }
        narrow();
        choose();
        return choice_;
    }

private:
    /// Measures an alpha. Whether a larger one may be better.
    bool falls_short(double alpha) {
        const AlphaMeasure m = measure_(alpha);
        const bool affordable = std::isfinite(m.gap) && std::isfinite(m.utility) && m.utility >= choice_.utility_floor;
        choice_.tried.push_back({alpha, m, affordable});
        return affordable && m.gap > 0;
    }

    void narrow() {
        double low = 0;  // falls short
        double high = 1;
        while (falls_short(high)) {
            low = high;
            if (high == most_alpha) return;
            high *= 2;
        }
        while (low == 0 && high > least_alpha) {
            if (falls_short(high / 2))
                low = high / 2;
            else
                high /= 2;
        }
        if (low > 0) falls_short((low + high) / 2);
    }

    void choose() {
        const AlphaCandidate* best = &choice_.tried.front();
        const AlphaCandidate* dear = nullptr;  // the least that costs too much
        for (const AlphaCandidate& c : choice_.tried) {
            const double gain = std::abs(best->measured.gap) - std::abs(c.measured.gap);
            if (c.affordable && (gain > 0 || (gain == 0 && c.alpha < best->alpha))) best = &c;
            if (!c.affordable && (!dear || c.alpha < dear->alpha)) dear = &c;
        }
        choice_.alpha = best->alpha;
        choice_.reason = cat("of ", choice_.tried.size(), " alphas the least gap, ", short_text(best->measured.gap),
                             ", with utility at least ", short_text(choice_.utility_floor));
        if (best->measured.gap > 0 && best->alpha == most_alpha)
            choice_.reason += "; a larger alpha than is tried might do more";
        else if (best->measured.gap > 0 && dear)
            choice_.reason += cat("; alpha ", short_text(dear->alpha), " would cost more");
    }

    const std::function<AlphaMeasure(double)>& measure_;
    double budget_;
    AlphaChoice choice_;
};

}  // namespace

AlphaChoice search_alpha(const std::function<AlphaMeasure(double)>& measure, double budget) {
    require_input(budget >= 0 && budget <= 1, "--utility-budget must be a share between 0 and 1, not ", budget);
    return Search(measure, budget).run();
}

}  // namespace uipe::unlearn
