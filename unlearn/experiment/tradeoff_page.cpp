#include "unlearn/experiment/tradeoff_page.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <sstream>

#include "unlearn/experiment/claims.h"
#include "unlearn/experiment/points_json.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {
namespace {

using Results = std::vector<SeedCells>;

const char* name_of(Rival rival) {
    switch (rival) {
        case Rival::own:
            return "the run up to UIPE’s epoch";
        case Rival::constant:
            return "the run trained on";
        case Rival::decayed:
            return "a run of decaying rate";
        case Rival::ended:
            return "the end of the decayed run that UIPE starts from";
        default:
            return "the end of one twice as long";
    }
}

/// One number of every seed, of one cell.
template <class F>
std::vector<double> of_seeds(const Results& results, std::size_t cell, const F& f) {
    std::vector<double> out;
    for (const SeedCells& r : results) out.push_back(f(r.cells[cell]));
    return out;
}

/// The mean over all cells of every seed.
template <class F>
std::vector<double> over_cells(const Results& results, const F& f) {
    std::vector<double> out;
    for (const SeedCells& r : results) {
        std::vector<double> values;
        for (const Cell& c : r.cells) values.push_back(f(c));
        out.push_back(estimate(values).mean);
    }
    return out;
}

using Comparing = Comparison (*)(const Cell&, Rival);
Comparison on_all_rows(const Cell& cell, Rival rival) { return compare(cell, rival); }
using Outcome = double (*)(const Comparison&);
double quality(const Comparison& c) { return c.quality; }
double kept(const Comparison& c) { return c.utility; }
double passes(const Comparison& c) { return c.passes(); }

/// Where UIPE's start is its rival's best point, choice and verdict on the same rows cannot show it behind.
bool decided_by_construction(Rival rival) { return rival == Rival::own || rival == Rival::ended; }

}  // namespace

std::vector<Claim> claims_of(const std::vector<SeedCells>& results) {
    std::vector<Claim> out;
    const auto add = [&](const std::string& where, const std::string& claim, const std::string& measure,
                         Comparing comparing, Rival rival, Outcome value) {
        out.push_back({where, cat(claim, " than ", name_of(rival)),
                       cat(measure, ", UIPE minus the other; mean over cells"),
                       over_cells(results, [&](const Cell& c) { return value(comparing(c, rival)); })});
    };
    for (const Rival rival : every_rival) {
        const std::string where = rival == Rival::own ? "figure 6, by halves" : "control, by halves";
        add(where, "UIPE forgets better", "log10 forget quality of the points chosen on the other rows", compare_halves,
            rival, quality);
        add(where, "UIPE keeps more utility", "utility of the points chosen on the other rows", compare_halves, rival,
            kept);
    }
    for (const Rival rival : every_rival) {
        if (decided_by_construction(rival)) continue;
        add("control, all rows", "UIPE forgets better", "log10 of the best forget quality that keeps 95 % of utility",
            on_all_rows, rival, quality);
        add("control, all rows", "UIPE passes more often", "share that passes 0.05 while keeping 95 % of utility",
            on_all_rows, rival, passes);
    }
    return out;
}

namespace {

/// UIPE's share of the Pareto front of its points and a rival's.
double front_share(const Cell& cell, Rival rival) {
    Points all = theirs(cell, rival);
    all.insert(all.end(), cell.extrapolated().begin(), cell.extrapolated().end());
    const Points front = pareto_front(all);
    const auto ours = std::count_if(front.begin(), front.end(), [](const TradeoffPoint& p) { return p.alpha > 0; });
    return static_cast<double>(ours) / static_cast<double>(front.size());
}

std::string with_verdict(const std::vector<double>& differences, std::size_t seeds) {
    const Estimate e = estimate(differences);
    if (e.n == 0) return "–";
    return cat(text_of_seeds(e, seeds), e.n > 1 ? cat(", ", text_of(verdict(e))) : "");
}

class Writer {
public:
    Writer(const Results& results, const TradeoffOptions& options)
        : results_(results), o_(options), claims_(claims_of(results)) {}

    void write_page(const fs::path& file) const {
        Page page("Forget quality against model utility",
                  "UIPE goes on from an unlearned model along its update. The UIPE paper (arXiv 2503.04693, figure 6) "
                  "claims that this forgets better, at little cost to utility, than unlearning alone. Here it is also "
                  "held against what costs as little thought: training on.");
        page.made_by(o_.command);
        page.claims(claims_, results_.size());
        add_meaning(page);
        page.heading("By epoch and by α (figure 6)");
        page.paragraph(
            "Means over seeds, point by point; of forget quality, of its logarithm, and what is below "
            "10<sup>−12</sup> is drawn there. Both runs begin at the full model. Stars: the points that "
            "would be chosen, of best forget quality among those that keep 95 % of utility.");
        add_figures(page, Rows::all, Rows::all);
        add_comparisons(page, "Cell by cell: log10 forget quality", on_all_rows, quality,
                        "Chosen and judged by all rows. Against the run up to UIPE’s epoch and the end that it starts "
                        "from it cannot be below 0: UIPE may stay at its start.");
        add_comparisons(page, "Cell by cell: utility", on_all_rows, kept, "Of the same points.");
        add_counts(page);
        page.heading("Chosen on one half of the forget rows, judged on the other");
        page.paragraph(
            "Above, the epoch and α are chosen by the forget quality that is then reported: selection on the test set, "
            "as in the paper. Below, the epoch that UIPE starts from and the starred points are chosen by the even "
            "forget rows, and all is drawn and judged by the odd ones; tables and claims average this and the reverse. "
            "Half as many rows make forget quality coarser, and its small values larger.");
        add_figures(page, Rows::even, Rows::odd);
        add_comparisons(page, "Cell by cell, by halves: log10 forget quality", compare_halves, quality, "");
        add_comparisons(page, "Cell by cell, by halves: utility", compare_halves, kept, "");
        page.write(file);
        say_results(claims_);
    }

    void write_data(const fs::path& folder) const {
        Json json{{"command", o_.command}, {"claims", json_of(claims_)}, {"seeds", Json::array()}};
        std::ostringstream csv;
        csv.precision(17);
        csv << "seed,split,method,run,base_chosen_by," << points_head;
        for (const SeedCells& r : results_) {
            json["seeds"].push_back({{"seed", r.seed}, {"cells", Json::array()}});
            for (std::size_t i = 0; i < r.cells.size(); ++i) {
                json["seeds"].back()["cells"].push_back(json_of(r.cells[i], i));
                add_csv(csv, r.cells[i], cat(r.seed, ",", split(i), ",", method(i)));
            }
        }
        write_json(folder / "tradeoff.json", json);
        write_file(folder / "tradeoff.csv", csv.str());
    }

private:
    static constexpr std::array row_names{"all", "even", "odd"};

    std::size_t cells() const { return results_.front().cells.size(); }
    const std::string& split(std::size_t cell) const { return o_.splits[cell / o_.methods.size()]; }
    const std::string& method(std::size_t cell) const { return o_.methods[cell % o_.methods.size()]; }
    std::string title(std::size_t cell) const { return cat(method_name(method(cell)), ", ", split(cell)); }

    Json json_of(const Cell& c, std::size_t at) const {
        Json out{{"split", split(at)},
                 {"method", method(at)},
                 {"constant", unlearn::json_of(c.constant)},
                 {"decayed", unlearn::json_of(c.decayed)},
                 {"ended", unlearn::json_of(c.ended)}};
        for (std::size_t i = 0; i < row_names.size(); ++i) out["uipe"][row_names[i]] = unlearn::json_of(c.uipe[i]);
        out["uipe_ended"] = unlearn::json_of(c.uipe_ended);
        const char* names[]{"own", "constant", "decayed", "ended", "ended_later"};
        for (const Rival rival : every_rival) {
            Json& one = out["against"][names[static_cast<std::size_t>(rival)]];
            for (const bool halves : {false, true}) {
                const Comparison d = halves ? compare_halves(c, rival) : compare(c, rival);
                one[halves ? "halves" : "all"] = {{"log10_forget_quality", d.quality},
                                                  {"model_utility", d.utility},
                                                  {"uipe_passes", d.uipe_passes},
                                                  {"rival_passes", d.rival_passes}};
            }
        }
        return out;
    }
    static Json json_of(const std::vector<Claim>& claims) { return unlearn::json_of(claims); }

    static void add_csv(std::ostream& csv, const Cell& c, const std::string& before) {
        write_points(csv, before + ",constant,", c.constant);
        write_points(csv, before + ",decayed,", c.decayed);
        write_points(csv, before + ",ended,", c.ended);
        for (std::size_t i = 0; i < row_names.size(); ++i)
            write_points(csv, cat(before, ",uipe,", row_names[i]), c.uipe[i]);
        write_points(csv, before + ",uipe_ended,", c.uipe_ended);
    }

    void add_meaning(Page& page) const {
        page.paragraph(cat(
            "A cell is a method on a forget set. Its run goes ", 2 * o_.epochs,
            " epochs at a constant learning rate; UIPE starts from that of the first ", o_.epochs,
            " which has the best forget quality among those that keep 95 % of the full model’s utility. It is "
            "compared with the same run’s epochs up to that one, which is the paper’s comparison; with all ",
            2 * o_.epochs,
            "; and with as many of a run whose rate falls to 0. And UIPE starts from the end of a run "
            "whose rate fell to 0 in ",
            o_.epochs,
            " epochs, where training has stopped by itself: compared with that "
            "end, and with that of a run that took ",
            2 * o_.epochs,
            " epochs to it. Of each side the point of best "
            "forget quality that keeps 95 % is taken, or of best utility where none does; UIPE may stay at its start. "
            "A seed in which the full model has a forget quality above 0.05 on the rows that judge says nothing: "
            "they are too few to tell whether anything was forgotten."));
        if (!o_.model.empty())
            page.paragraph("All is of one model: seeds vary the order of rows and what is drawn beside them.");
        for (std::size_t i = 0; i < cells(); i += o_.methods.size()) {
            const auto untold = of_seeds(results_, i, [](const Cell& c) {
                return c.full().of(Rows::all) > forget_quality_threshold ? 1.0 : 0.0;
            });
            const double n = std::accumulate(untold.begin(), untold.end(), 0.0);
            if (n > 0)
                page.paragraph(cat("On ", escaped(split(i)), " that is so in ", n, " of ", untold.size(), " seeds."));
        }
    }

    Series path(std::size_t cell, const std::function<Points(const Cell&)>& points, Rows judged, Series style) const {
        const std::size_t n = points(results_.front().cells[cell]).size();
        for (std::size_t i = 0; i < n; ++i) {
            const auto x = of_seeds(results_, cell, [&](const Cell& c) { return points(c)[i].utility; });
            const auto y =
                of_seeds(results_, cell, [&](const Cell& c) { return log_quality(points(c)[i].of(judged)); });
            style.points.emplace_back(estimate(x).mean, std::pow(10, estimate(y).mean));
        }
        return style;
    }

    Plot plot(std::size_t cell, Rows choice, Rows judged) const {
        const auto best = [choice](const Points& points, const Cell& c) {
            return Points{chosen(points, c.floor(), choice)};
        };
        Plot p{.x_label = "model utility",
               .y_label = "forget quality",
               .log_y = true,
               .threshold = forget_quality_threshold,
               .width = 360,
               .height = 300};
        p.series = {path(cell, [](const Cell& c) { return c.decayed; }, judged, {{}, 2, Line::solid, Marker::ring}),
                    path(cell, [](const Cell& c) { return c.constant; }, judged, {{}, 0, Line::solid, Marker::dot}),
                    path(cell, [choice](const Cell& c) { return ours(c, Rival::own, choice); }, judged,
                         {{}, 1, Line::dashed, Marker::diamond}),
                    path(cell, [](const Cell& c) { return ours(c, Rival::ended); }, judged,
                         {{}, 3, Line::dashed, Marker::diamond}),
                    path(cell, [&](const Cell& c) { return best(theirs(c, Rival::constant), c); }, judged,
                         {{}, 0, Line::none, Marker::star}),
                    path(cell, [&](const Cell& c) { return best(ours(c, Rival::own, choice), c); }, judged,
                         {{}, 1, Line::none, Marker::star})};
        return p;
    }

    /// A method a row, a forget set a column.
    void add_figures(Page& page, Rows choice, Rows judged) const {
        page.legend({"epochs at a constant rate", "UIPE from one of them, α growing", "epochs at a decaying rate",
                     "UIPE from the end of half as many"},
                    "<li>★ the point that would be chosen</li>");
        std::vector<Page::Picture> pictures;
        for (std::size_t m = 0; m < o_.methods.size(); ++m)
            for (std::size_t i = m; i < cells(); i += o_.methods.size())
                pictures.push_back({plot(i, choice, judged), title(i), ""});
        page.figures(pictures, std::min<std::size_t>(3, o_.splits.size()));
    }

    void add_comparisons(Page& page, const std::string& heading, Comparing comparing, Outcome value,
                         const std::string& remark) const {
        std::vector<std::vector<std::string>> rows;
        for (std::size_t i = 0; i < cells(); ++i) {
            rows.push_back({title(i)});
            for (const Rival rival : every_rival)
                rows.back().push_back(with_verdict(
                    of_seeds(results_, i, [&](const Cell& c) { return value(comparing(c, rival)); }), results_.size()));
        }
        std::vector<std::string> head{"UIPE minus"};
        for (const Rival rival : every_rival) head.emplace_back(name_of(rival));
        page.heading(heading);
        page.paragraph(
            cat(remark, remark.empty() ? "" : " ", "The verdict is on the claim that UIPE is the better one."));
        page.table(head, rows);
    }

    void add_counts(Page& page) const {
        std::vector<std::vector<std::string>> rows;
        for (std::size_t i = 0; i < cells(); ++i) {
            std::string epochs;
            for (const SeedCells& r : results_) epochs += cat(epochs.empty() ? "" : ", ", r.cells[i].base[0]);
            const auto count = [&](Rival rival, double Comparison::*side) {
                const auto counted = of_seeds(results_, i, [&](const Cell& c) { return compare(c, rival).*side; });
                const Estimate e = estimate(counted);
                return e.n == 0 ? "–" : cat(e.mean * static_cast<double>(e.n), " of ", e.n);
            };
            const auto share = [&](Rival rival) {
                return text_of(estimate(of_seeds(results_, i, [&](const Cell& c) { return front_share(c, rival); })),
                               2);
            };
            rows.push_back(
                {title(i), epochs, count(Rival::own, &Comparison::uipe_passes),
                 count(Rival::own, &Comparison::rival_passes), count(Rival::constant, &Comparison::rival_passes),
                 count(Rival::decayed, &Comparison::rival_passes), count(Rival::ended, &Comparison::uipe_passes),
                 share(Rival::constant), share(Rival::decayed)});
        }
        page.heading("Who passes 0.05, and who is on the Pareto front");
        page.paragraph(
            "The epochs that UIPE starts from, seed by seed; the seeds in which a side has a forget quality above 0.05 "
            "while it keeps 95 % of utility: UIPE, its run up to there, the run trained on, one of decaying rate, UIPE "
            "from the end of one. And the share of the Pareto front that is UIPE’s, of its points and all epochs of "
            "either run together.");
        page.table(
            {"", "epochs", "UIPE", "up to there", "trained on", "decaying", "UIPE after it", "front", "with decaying"},
            rows);
    }

    const Results& results_;
    const TradeoffOptions& o_;
    std::vector<Claim> claims_;
};

}  // namespace

fs::path write_tradeoff(const std::vector<SeedCells>& results, const TradeoffOptions& options) {
    const Writer writer(results, options);
    writer.write_data(options.out);
    const fs::path file = options.out / "tradeoff.html";
    writer.write_page(file);
    return file;
}

}  // namespace uipe::unlearn
