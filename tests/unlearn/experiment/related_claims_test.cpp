// What the claims of the related-knowledge experiment measure, on made-up results.
#include <gtest/gtest.h>

#include <cmath>

#include "tensor/base/error.h"
#include "unlearn/experiment/related_page.h"

namespace uipe::unlearn {
namespace {

KnowledgePoint point(double epoch, double utility, double k1, double k2, double alpha = 0) {
    KnowledgePoint p;
    p.epoch = epoch;
    p.alpha = alpha;
    p.utility = utility;
    p.k1.probability = k1;
    p.k2.probability = k2;
    p.retain = utility;
    p.quality_k1 = p.quality_k2 = std::pow(10, -10 * k1);
    return p;
}

/// M1 falls as the paper says, M2 and M3 at half the price; `noise` tells the seeds apart.
SeedResult seed(double noise) {
    SeedResult r;
    r.unknown_k1.probability = 0.1;
    r.inferred_k1.right = 0.5 + noise;
    r.inferred_k1.chance = 0.2;
    r.models["M1"] = {point(0, 0.60, 0.9, 0.9), point(1, 0.59, 0.8, 0.85), point(2, 0.58, 0.5, 0.7 + noise),
                      point(3, 0.20, 0.2, 0.65), point(4, 0.10, 0.1, 0.64)};
    r.models["M2"] = {point(0, 0.50, 0.9, 0.9), point(1, 0.495, 0.7, 0.9), point(2, 0.49, 0.5, 0.9),
                      point(3, 0.48, 0.3, 0.9), point(4, 0.47, 0.1, 0.9)};
    r.models["M3"] = r.models["M2"];
    r.uipe = {r.models["M1"][1], point(1, 0.58, 0.65, 0.75 + noise, 0.5), point(1, 0.55, 0.5, 0.6, 1),
              point(1, 0.1, 0.1, 0.1, 4)};
    r.gradients["cosine"] = {{"related", 0.3 + noise}, {"same_person", 0.2}, {"unrelated", 0.1}};
    r.gradients["updates"] = Json::array({{{"length", 2.0}, {"k2", 1.0 + noise}, {"retain", 0.2}}});
    return r;
}

double measured(const std::vector<Claim>& claims, const std::string& claim) {
    for (const Claim& c : claims)
        if (c.claim == claim) return c.estimated().mean;
    ADD_FAILURE() << "no claim " << claim;
    return 0;
}

TEST(RelatedClaims, AreTheDifferencesThatTheyName) {
    const std::vector<Claim> claims = claims_of({seed(-0.01), seed(0), seed(0.01)});
    const auto is = [&](const std::string& claim, double value) {
        EXPECT_NEAR(measured(claims, claim), value, 1e-12) << claim;
    };
    is("K1 can be inferred from K2", 0.3);
    is("Where K2 remains, K1 is forgotten less: M1 behind M2", (8.0 + 5) / 2 - (7.0 + 5) / 2);
    // Half-way is 0.5: M1 has paid 0.02 of 0.60 there, M2 0.01 of 0.50.
    is("M1 pays more utility than M2 for as much forgetting", 0.01);
    // M1 keeps 95 % up to epoch 2.
    is("Unlearning K1 makes M1 forget K2 too", 1 - 0.7 / 0.9);
    is("but less than K1", 0.7 / 0.9 - 0.5 / 0.9);
    is("and more than of what is to be kept", 0.58 / 0.60 - 0.7 / 0.9);
    is("and then it slows down", (0.9 - 0.7) - (0.7 - 0.64));
    is("Gradients of K1 and the K2 that implies it are alike", 0.2);
    is("The update on K1 goes along K2's gradient", 0.5);
    is("more than along the gradient of what is to be kept", 0.4);
    is("UIPE at α = 1 forgets K1 better", 3);
    is("at little cost", 0.55 - 0.95 * 0.59);
    is("UIPE removes more of K2 than training on to the same K1", 0.7 - 0.6);
    is("and keeps more utility", 0.55 - 0.58);
}

TEST(RelatedClaims, OfRuinedModelsAndMissingAlphasStillSaySomething) {
    SeedResult r = seed(0);
    for (std::size_t i = 1; i < r.models["M1"].size(); ++i) r.models["M1"][i].utility = 0.1;
    r.uipe.resize(2);  // alpha 0.5 alone
    const std::vector<Claim> claims = claims_of({r});
    EXPECT_NEAR(measured(claims, "Unlearning K1 makes M1 forget K2 too"), 1 - 0.85 / 0.9, 1e-12) << "the first epoch";
    EXPECT_NEAR(measured(claims, "UIPE at α = 1 forgets K1 better"), 1.5, 1e-12) << "the nearest";
    for (const Claim& c : claims) EXPECT_EQ(c.result(), Verdict::not_resolved) << "of one seed: " << c.claim;
}

}  // namespace
}  // namespace uipe::unlearn
