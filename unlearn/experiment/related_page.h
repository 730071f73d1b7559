// What the related-knowledge experiment found: its data files and its page. Include in .cpp files only.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor/base/json.h"
#include "unlearn/experiment/knowledge.h"
#include "unlearn/experiment/page.h"
#include "unlearn/experiment/related.h"

namespace uipe::unlearn {

/// A model, judged on K1 and on K2.
struct KnowledgePoint {
    double epoch = 0, alpha = 0;
    double utility = 0;
    double quality_k1 = 0, quality_k2 = 0;  // forget quality
    double retain = 0;                      // mean p^(1/tokens) of the answers of what is to be kept
    Recall k1, k2;
};

struct SeedResult {
    std::uint64_t seed = 0;
    Recall unknown_k1;                                          // of the model that has met none of the people
    Recall inferred_k1;                                         // of one that has learned their K2
    Recall learned_k2;                                          // the same one on K2
    std::map<std::string, std::vector<KnowledgePoint>> models;  // M1, M2, M3 by epoch
    std::vector<KnowledgePoint> uipe;                           // M1 extrapolated, alpha 0 first
    Json gradients;
};

/// `value` where `level`, falling along the points, first reaches `at`, between points in a line; NaN where it does
/// not.
double where_reached(const std::vector<KnowledgePoint>& points, double at, double (*level)(const KnowledgePoint&),
                     double (*value)(const KnowledgePoint&));

/// What the paper claims, and what is asked beside it, each a value a seed.
std::vector<Claim> claims_of(const std::vector<SeedResult>& results);

/// Writes related.json, related.csv and related.html into options.out; returns the page.
fs::path write_related(const std::vector<SeedResult>& results, const RelatedOptions& options);

}  // namespace uipe::unlearn
