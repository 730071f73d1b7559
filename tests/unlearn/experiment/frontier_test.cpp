#include "unlearn/experiment/frontier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tensor/base/error.h"
#include "unlearn/experiment/alpha_page.h"
#include "unlearn/experiment/halves.h"
#include "unlearn/experiment/tradeoff_page.h"

namespace uipe::unlearn {
namespace {

TradeoffPoint point(double utility, double quality, int epoch = 0, double alpha = 0) {
    return {epoch, alpha, utility, {quality, quality, quality}, 0};
}

std::vector<int> epochs_of(const Points& points) {
    std::vector<int> out;
    for (const TradeoffPoint& p : points) out.push_back(p.epoch);
    return out;
}

TEST(Frontier, IsWhatNoOtherPointBeats) {
    const Points points{point(0.6, 1e-9, 0), point(0.5, 0.1, 1), point(0.5, 0.05, 2), point(0.4, 0.1, 3),
                        point(0.3, 0.9, 4),  point(0.5, 0.1, 5), point(0.2, 0.01, 6)};
    EXPECT_EQ(epochs_of(pareto_front(points)), (std::vector<int>{0, 1, 4, 5})) << "equal points do not beat each other";
    EXPECT_TRUE(pareto_front({}).empty());
}

TEST(Frontier, IsOfTheRowsAskedFor) {
    Points points{point(0.6, 0.1, 0), point(0.5, 0.2, 1)};
    points[1].quality[static_cast<std::size_t>(Rows::odd)] = 0.05;
    EXPECT_EQ(pareto_front(points).size(), 2u);
    EXPECT_EQ(epochs_of(pareto_front(points, Rows::odd)), std::vector<int>{0});
}

TEST(Frontier, ChoosesTheBestQualityThatKeepsUtility) {
    const Points points{point(0.60, 0.01, 1), point(0.57, 0.3, 2), point(0.5, 0.9, 3)};
    EXPECT_EQ(chosen(points, 0.57).epoch, 2);
    EXPECT_EQ(chosen(points, 0.4).epoch, 3);
    EXPECT_EQ(chosen(points, 0.7).epoch, 1) << "most utility where none keeps the floor";
}

/// Even rows prefer UIPE's first point and epoch 1, odd rows the second ones.
Cell cell() {
    const auto split = [](double utility, double all, double even, double odd, int epoch, double alpha = 0) {
        return TradeoffPoint{epoch, alpha, utility, {all, even, odd}, 0};
    };
    Cell c;
    c.constant = {split(1.0, 1e-6, 1e-6, 1e-6, 0), split(0.99, 1e-3, 0.1, 1e-3, 1), split(0.98, 1e-2, 1e-2, 0.1, 2),
                  split(0.96, 1e-1, 0.5, 1e-4, 3), split(0.90, 0.9, 0.9, 0.9, 4)};
    c.decayed = {c.constant[0], split(0.995, 1e-5, 1e-5, 1e-5, 1), split(0.99, 1e-4, 1e-4, 1e-4, 2),
                 split(0.97, 1e-3, 1e-3, 1e-3, 3), split(0.96, 1e-2, 1e-2, 1e-2, 4)};
    c.ended = {c.constant[0], split(0.99, 1e-5, 1e-5, 1e-5, 1), split(0.98, 1e-4, 1e-4, 1e-4, 2)};
    c.base = {2, 1, 2};
    for (Points& ladder : c.uipe) ladder = {split(0.97, 0.2, 0.9, 1e-2, 2, 1), split(0.96, 0.1, 1e-2, 0.9, 2, 2)};
    c.uipe_ended = {split(0.97, 1e-1, 1e-1, 1e-1, 2, 1), split(0.5, 0.9, 0.9, 0.9, 2, 2)};
    return c;
}

TEST(Frontier, SidesAreTheLadderWithItsStartAndTheEpochsOfRuns) {
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::own)), (std::vector<int>{1, 2}));
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::own, Rows::even)), std::vector<int>{1});
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::constant)), (std::vector<int>{1, 2, 3, 4}));
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::decayed)), (std::vector<int>{1, 2, 3, 4}));
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::ended)), std::vector<int>{2});
    EXPECT_EQ(epochs_of(theirs(cell(), Rival::ended_later)), std::vector<int>{4});
    EXPECT_EQ(ours(cell(), Rival::own, Rows::even).front().epoch, 1) << "as those rows choose";
    EXPECT_EQ(ours(cell(), Rival::decayed).size(), 3u);
    EXPECT_NEAR(ours(cell(), Rival::ended).front().of(Rows::all), 1e-4, 1e-12);
}

TEST(Frontier, ComparesTheBestQualityThatKeepsUtility) {
    // UIPE 0.2 at 0.97; epoch 3, 0.1 at 0.96: epoch 4 keeps too little.
    const Comparison on = compare(cell(), Rival::constant);
    EXPECT_NEAR(on.quality, std::log10(2.0), 1e-12);
    EXPECT_NEAR(on.utility, 0.01, 1e-12);
    EXPECT_EQ(on.uipe_passes, 1);
    EXPECT_EQ(on.rival_passes, 1);
    const Comparison decayed = compare(cell(), Rival::decayed);
    EXPECT_NEAR(decayed.quality, std::log10(20.0), 1e-12);
    EXPECT_EQ(decayed.passes(), 1);
    EXPECT_NEAR(compare(cell(), Rival::ended).quality, 3, 1e-12);
    EXPECT_NEAR(compare(cell(), Rival::ended_later).quality, 1, 1e-12);
}

TEST(Frontier, UipeMayStayAtItsStart) {
    Cell c = cell();
    for (TradeoffPoint& p : c.uipe[0]) p.utility = 0.5;
    EXPECT_NEAR(compare(c, Rival::own).quality, 0, 1e-12) << "not the loss of all that was forgotten";
    EXPECT_NEAR(compare(c, Rival::constant).quality, -1, 1e-12);
}

TEST(Frontier, WhereTheModelBeforePassesNothingIsSaid) {
    Cell c = cell();
    c.constant[0].quality = {0.04, 0.06, 0.04};
    EXPECT_FALSE(std::isnan(compare(c, Rival::constant).quality));
    EXPECT_TRUE(std::isnan(compare_halves(c, Rival::constant).quality)) << "even rows tell nothing";
    EXPECT_TRUE(std::isnan(compare_halves(c, Rival::constant).passes()));
}

TEST(Frontier, WhatOneHalfChoosesTheOtherJudges) {
    // Chosen by even rows: UIPE's first, 1e-2 on odd ones, and epoch 3, 1e-4 there. By odd rows: UIPE's second, 1e-2 on
    // even ones, and epoch 2, 1e-2 there.
    const Comparison c = compare_halves(cell(), Rival::constant);
    EXPECT_NEAR(c.quality, (2.0 + 0.0) / 2, 1e-12);
    EXPECT_NEAR(c.utility, ((0.97 - 0.96) + (0.96 - 0.98)) / 2, 1e-12);
    EXPECT_EQ(c.uipe_passes, 0);
    EXPECT_EQ(c.rival_passes, 0);
    // Up to UIPE's epoch: epoch 1 of even rows, 1e-3 on odd ones.
    EXPECT_NEAR(compare_halves(cell(), Rival::own).quality, (1.0 + 0.0) / 2, 1e-12);
}

TEST(Frontier, ClaimsAreMeansOverCellsThatSaySomething) {
    std::vector<SeedCells> results;
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        SeedCells r{seed, {cell(), cell()}};
        r.cells[1].constant[0].quality = {0.5, 0.5, 0.5};
        for (TradeoffPoint& p : r.cells[0].uipe[0]) p.quality[0] *= std::pow(10, 0.01 * static_cast<double>(seed));
        results.push_back(r);
    }
    std::map<std::string, Claim> found;
    for (const Claim& c : claims_of(results)) {
        ASSERT_EQ(c.differences.size(), 3u);
        found[c.where + ": " + c.claim] = c;
    }
    const Claim& better = found.at("control, all rows: UIPE forgets better than the run trained on");
    EXPECT_NEAR(better.estimated().mean, std::log10(2.0) + 0.02, 1e-12);
    EXPECT_EQ(better.result(), Verdict::holds);
    const Claim& passes = found.at("control, all rows: UIPE passes more often than a run of decaying rate");
    EXPECT_DOUBLE_EQ(passes.estimated().mean, 1);
    const Claim& utility = found.at("control, by halves: UIPE keeps more utility than the run trained on");
    EXPECT_NEAR(utility.estimated().mean, -0.005, 1e-12);
    EXPECT_FALSE(found.contains("control, all rows: UIPE forgets better than the run up to UIPE’s epoch"));
}

TEST(Frontier, ShapesOfALadder) {
    const Points up{point(1, 1e-4), point(1, 1e-3), point(1, 1e-1)};
    EXPECT_NEAR(rise(up), 3.0, 1e-12);
    EXPECT_NEAR(spread(up), 3.0, 1e-12);
    EXPECT_NEAR(bulge(up), -2.0, 1e-12);
    const Points hill{point(1, 1e-4), point(1, 1e-1), point(1, 1e-2)};
    EXPECT_NEAR(rise(hill), 2.0, 1e-12);
    EXPECT_NEAR(spread(hill), 3.0, 1e-12);
    EXPECT_NEAR(bulge(hill), 1.0, 1e-12);
    EXPECT_TRUE(std::isnan(bulge({point(1, 1e-4), point(1, 1e-1)})));
    EXPECT_TRUE(std::isnan(spread({point(1, 1e-4)}))) << "one alpha does not vary";
    EXPECT_TRUE(std::isnan(rise({point(1, 1e-4)})));
}

/// A log whose truth ratios, all else equal, are ordered as `losses` are.
eval::EvalLog log_of(const std::vector<double>& losses) {
    eval::EvalLog log;
    for (const double loss : losses) {
        eval::RowScore row;
        row.answer = row.paraphrase.emplace() = {loss, 5, {}, {}};
        row.perturbed = {{1.0, 5, {}, {}}};
        log.forget.rows.push_back(row);
    }
    return log;
}

TEST(Halves, AreTheRowsOfEvenAndOfOddPlaces) {
    // Even rows as the retain model's, odd ones all below.
    const eval::EvalLog log = log_of({0.1, 5, 0.2, 6, 0.3, 7, 0.4, 8});
    const eval::EvalLog retain = log_of({0.1, 1, 0.2, 2, 0.3, 3, 0.4, 4});
    EXPECT_DOUBLE_EQ(forget_quality(log, retain, Rows::even), 1.0);
    EXPECT_NEAR(forget_quality(log, retain, Rows::odd), 2.0 / 70, 1e-12);  // 4 and 4 rows, apart: 2 of C(8, 4) orders
    EXPECT_GT(forget_quality(log, retain, Rows::all), 2.0 / 70);
    EXPECT_LT(forget_quality(log, retain, Rows::all), 1.0);
}

TEST(Halves, NeedTwoRowsAndAsManyOfTheRetainModel) {
    EXPECT_THROW(forget_quality(log_of({1}), log_of({1}), Rows::odd), InputError);
    EXPECT_THROW(forget_quality(log_of({1, 2, 3}), log_of({1, 2, 3, 4}), Rows::all), InputError);
}

}  // namespace
}  // namespace uipe::unlearn
