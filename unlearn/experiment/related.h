// Related knowledge: table 1 and figures 2, 3 and 8 of the UIPE paper (arXiv 2503.04693), and its equations 2 to 6
// measured.
//
// K1 are facts to be forgotten, K2 facts from which they can be inferred. M1 learns both and unlearns K1; M2 learns K1
// and unlearns it; M3 learns both and unlearns both. All take as many steps over as many rows.
#pragma once

#include <cstdint>

#include "unlearn/experiment/small_world.h"

namespace uipe::unlearn {

struct RelatedOptions {
    fs::path out;
    std::string command;  // as it was given, for the page
    Words common;         // behind every command: threads, device, dtype
    std::uint64_t seed = 42;
    int seeds = 1;

    fs::path model;            // empty: one is made, with a world
    fs::path k1, k2;           // empty: the world's
    fs::path tofu;             // of `model`: retain_perturbed and general knowledge
    int related_people = 400;  // of the world made
    int width = 64, layers = 3, pretraining_epochs = 12;

    std::string method = "ga";
    Words method_options;  // --beta and the like
    int fine_epochs = 40;
    double fine_lr = 3e-4;
    int epochs = 10;
    double lr = 2e-4;
    int batch_size = 16;
    int lora_rank = 0;
    std::vector<double> alphas{0.25, 0.5, 1, 2, 4};
    int uipe_epoch = 0;  // 0: the last before forget quality of K1 exceeds 0.05, or the middle one where it never does
    int eval_rows = 40;  // of each utility set
    int eval_tokens = 24;             // of each answer
    int pairs = 40;                   // rows whose gradients are compared one by one
    std::string form = default_form;  // prompt of a QA row
};

/// Runs it, as far as it has not been, and writes related.json, related.csv and related.html into `out`; returns the
/// page.
fs::path run_related(const RelatedOptions& options);

}  // namespace uipe::unlearn
