// Claims as data and as lines of the terminal. Include in .cpp files only.
#pragma once

#include "tensor/base/error.h"
#include "tensor/base/json.h"
#include "unlearn/experiment/page.h"
#include "unlearn/progress.h"

namespace uipe::unlearn {

inline Json json_of(const std::vector<Claim>& claims) {
    Json out = Json::array();
    for (const Claim& c : claims) {
        const Estimate e = c.estimated();
        out.push_back({{"paper", c.where},
                       {"claim", c.claim},
                       {"measure", c.measure},
                       {"values", c.differences},
                       {"n", e.n},
                       {"mean", e.mean},
                       {"half_width_95", e.half},
                       {"verdict", text_of(c.result())}});
    }
    return out;
}

inline void say_results(const std::vector<Claim>& claims) {
    for (const Claim& c : claims)
        say(cat(c.where.empty() ? "" : c.where + ": ", c.claim, ": ",
                text_of_seeds(c.estimated(), c.differences.size()), ", ", text_of(c.result())));
}

}  // namespace uipe::unlearn
