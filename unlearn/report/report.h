// The report: one self-contained HTML page made from run folders. It asks nothing of the network and of no other file.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tensor/base/file.h"

namespace uipe::unlearn {

struct ReportOptions {
    std::string title = "What was forgotten, and what it cost";
    /// The retain model's evaluation: a folder with TOFU_SUMMARY.json or TOFU_EVAL.json, or one such file; empty for
    /// none.
    fs::path retain = {};
    /// Facts for the page's head that no run folder holds, as name and value ("Parameters", "942 464").
    std::vector<std::pair<std::string, std::string>> facts = {};
};

/// Writes the page of `runs` (folders written by train, unlearn or eval) to `html`, atomically. What a folder lacks is
/// left out of the page; where gnuplot is missing, the page says so in place of a picture. InputError on a malformed
/// file.
void write_report(const std::vector<fs::path>& runs, const fs::path& html, const ReportOptions& options = {});

}  // namespace uipe::unlearn
