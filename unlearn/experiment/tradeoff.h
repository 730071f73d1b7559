// Figures 6 and 7 of the UIPE paper (arXiv 2503.04693): forget quality against model utility, with and without UIPE,
// and what alpha does. Both go by the same runs.
#pragma once

#include "unlearn/experiment/trials.h"

namespace uipe::unlearn {

/// Figure 6, and beside it the control that the paper leaves out: the same runs trained on. Runs it, as far as it has
/// not been, and writes tradeoff.json, tradeoff.csv and tradeoff.html into `out`; returns the page.
fs::path run_tradeoff(const TradeoffOptions& options);

/// Figure 7, on the first split: alpha.json, alpha.csv and alpha.html.
fs::path run_alpha(const TradeoffOptions& options);

}  // namespace uipe::unlearn
