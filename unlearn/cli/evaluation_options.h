// The evaluation options that several commands share.
#pragma once

#include <CLI/CLI.hpp>

#include "unlearn/session.h"

namespace uipe::unlearn {

inline void add_evaluation_options(CLI::App& c, EvalSettings& e) {
    const std::string group = "Evaluation";
    c.add_option("--tofu", e.tofu,
                 "Folder of TOFU's sets; evaluates on them. With holdoutXX there: membership attacks too")
        ->group(group);
    c.add_option("--split", e.split, "The forget set: forget01, forget05, forget10")->group(group);
    c.add_option("--retain-log", e.retain_log,
                 "Retain model's log (file or folder): without it no forget quality, no selected epoch")
        ->group(group);
    c.add_option("--protocol", e.protocol, "tofu (first 300 rows) or open-unlearning (all rows)")->group(group);
    c.add_option("--eval-rows", e.max_rows, "Rows of each utility set at most; 0: all. The forget set is always whole")
        ->group(group);
    c.add_option("--eval-tokens", e.max_new_tokens,
                 "New tokens of each generation (the tofu protocol has its own limit)")
        ->group(group);
    c.add_flag("--forget-only", e.forget_only, "The forget set alone: quicker, and without model utility")
        ->group(group);
}

}  // namespace uipe::unlearn
