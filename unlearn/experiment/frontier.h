// Forget quality against model utility: which points of the plane are best, and how two sets of points compare.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace uipe::unlearn {

/// The forget rows that a forget quality is of; by their index from 0, every second one is even.
enum class Rows : std::uint8_t { all, even, odd };
inline constexpr std::array every_rows{Rows::all, Rows::even, Rows::odd};

/// A model evaluated: that after an epoch (0 is before the first step), extrapolated by alpha.
struct TradeoffPoint {
    int epoch = 0;
    double alpha = 0;
    double utility = 0;
    std::array<double, 3> quality{};  // forget quality, by Rows
    double truth_ratio = 0;           // median over the forget rows

    double of(Rows rows) const { return quality[static_cast<std::size_t>(rows)]; }
};
using Points = std::vector<TradeoffPoint>;

/// Those that no other point beats: none is as good on both axes and better on one. In the order of `points`.
Points pareto_front(const Points& points, Rows rows = Rows::all);

/// The share of a model's utility that forgetting may not go below.
inline constexpr double utility_share = 0.95;

/// The point that a reader of the UIPE paper takes (section 5.2): the best forget quality among those that keep `floor`
/// of utility, or the best utility where none does.
const TradeoffPoint& chosen(const Points& points, double floor, Rows rows = Rows::all);

/// A method on a forget set.
struct Cell {
    Points constant, decayed, ended;  // by epoch from 0; the rate constant, falling to 0, and that in half the epochs
    std::array<int, 3> base{};        // the epoch of `constant` that UIPE starts from, chosen by Rows
    std::array<Points, 3> uipe{};     // from there by alpha, 0 not among them
    Points uipe_ended;                // from the end of `ended`

    const TradeoffPoint& full() const { return constant.front(); }
    double floor() const { return utility_share * full().utility; }
    const Points& extrapolated(Rows rows = Rows::all) const { return uipe[static_cast<std::size_t>(rows)]; }
    int base_of(Rows rows) const { return base[static_cast<std::size_t>(rows)]; }
};

/// What UIPE is held against. Starting from an epoch of the constant run: that run's epochs up to it, as in the paper;
/// all of them, which are twice as many; those of a run as long whose rate falls to 0. Starting from the end of a run
/// whose rate fell to 0: that end; the run that takes twice as long to it.
enum class Rival : std::uint8_t { own, constant, decayed, ended, ended_later };
inline constexpr std::array every_rival{Rival::own, Rival::constant, Rival::decayed, Rival::ended, Rival::ended_later};

/// UIPE's points against a rival: its start, alpha 0, is among them, for nobody is made to go on.
Points ours(const Cell& cell, Rival rival, Rows rows = Rows::all);
/// The rival's, without the model before unlearning.
Points theirs(const Cell& cell, Rival rival, Rows rows = Rows::all);

/// The point of UIPE that would be chosen less the rival's. All is NaN where the model before unlearning has a forget
/// quality above 0.05 itself, on the rows that judge: too few to tell whether anything was forgotten.
struct Comparison {
    double quality = 0;                        // of log10 forget quality
    double utility = 0;                        // of model utility
    double uipe_passes = 0, rival_passes = 0;  // 1: a forget quality above 0.05 while 95 % of utility is kept
    double passes() const { return uipe_passes - rival_passes; }
};
/// Chosen by some rows, judged by others.
Comparison compare(const Cell& cell, Rival rival, Rows choice = Rows::all, Rows judged = Rows::all);
/// Chosen by one half of the rows and judged by the other, mean of both ways.
Comparison compare_halves(const Cell& cell, Rival rival);

}  // namespace uipe::unlearn
