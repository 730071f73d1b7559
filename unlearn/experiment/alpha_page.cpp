#include "unlearn/experiment/alpha_page.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "unlearn/experiment/claims.h"
#include "unlearn/experiment/points_json.h"
#include "unlearn/experiment/small_world.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::vector<double> log_qualities(const Points& ladder) {
    std::vector<double> out;
    for (const TradeoffPoint& p : ladder) out.push_back(log_quality(p.of(Rows::all)));
    return out;
}

std::vector<Claim> claims_of(const std::vector<SeedLadders>& results) {
    std::vector<Claim> out;
    const auto add = [&](const std::string& method, const char* what, const char* measure, auto value) {
        if (!results.front().ladders.contains(method)) return;
        Claim c{"figure 7", cat(method_name(method), ": ", what), measure, {}};
        for (const SeedLadders& r : results)
            c.differences.push_back(r.full_quality > forget_quality_threshold ? nan : value(r.ladders.at(method)));
        out.push_back(c);
    };
    for (const char* method : {"grad_diff", "kl_min"})
        add(method, "forget quality rises with α", "log10 forget quality at the largest α less the smallest", rise);
    add("npo", "forget quality hardly depends on α", "1 less the range of log10 forget quality over α",
        [](const Points& p) { return 1 - spread(p); });
    add("ga", "forget quality rises with α, then falls",
        "log10 forget quality, the highest between the ends less the higher end", bulge);
    return out;
}

Series curve(const std::vector<SeedLadders>& results, const std::string& method, int color, bool quality) {
    Series out{{}, color};
    const Points& first = results.front().ladders.at(method);
    for (std::size_t i = 0; i < first.size(); ++i) {
        std::vector<double> values;
        for (const SeedLadders& r : results) {
            const TradeoffPoint& p = r.ladders.at(method)[i];
            values.push_back(quality ? log_quality(p.of(Rows::all)) : p.utility);
        }
        const double mean = estimate(values).mean;
        out.points.emplace_back(first[i].alpha, quality ? std::pow(10, mean) : mean);
    }
    return out;
}

void add_curves(Page& page, const std::vector<SeedLadders>& results, const TradeoffOptions& options) {
    Plot quality{.x_label = "α", .y_label = "forget quality", .log_y = true, .threshold = forget_quality_threshold};
    Plot kept{.x_label = "α", .y_label = "model utility"};
    std::vector<std::string> names;
    for (const std::string& method : options.methods) {
        const int color = static_cast<int>(names.size());
        quality.series.push_back(curve(results, method, color, true));
        kept.series.push_back(curve(results, method, color, false));
        names.push_back(method_name(method));
    }
    page.heading("Forget quality and utility by α (figure 7)");
    page.paragraph(cat("θ + α(θ − θ<sub>0</sub>), θ of the epoch, up to ", options.epochs,
                       ", of best forget quality among those that keep 95 % of utility. Means over seeds; of forget "
                       "quality, of its logarithm."));
    page.legend(names);
    page.figures({{quality, "Forget quality", "The dashed line is 0.05."}, {kept, "Model utility", ""}});
}

void add_table(Page& page, const std::vector<SeedLadders>& results, const TradeoffOptions& options) {
    std::vector<std::string> head{"method", "epochs, by seed"};
    for (const TradeoffPoint& p : results.front().ladders.begin()->second) head.push_back("α " + number_text(p.alpha));
    std::vector<std::vector<std::string>> rows;
    for (const std::string& method : options.methods) {
        std::string epochs;
        for (const SeedLadders& r : results)
            epochs += cat(epochs.empty() ? "" : ", ", r.ladders.at(method).front().epoch);
        rows.push_back({method_name(method), epochs});
        for (std::size_t i = 0; i + 2 < head.size(); ++i) {
            std::vector<double> logs;
            for (const SeedLadders& r : results) logs.push_back(log_quality(r.ladders.at(method)[i].of(Rows::all)));
            rows.back().push_back(text_of(estimate(logs), 2));
        }
    }
    page.heading("log10 forget quality");
    page.table(head, rows);
}

}  // namespace

double rise(const Points& ladder) {
    if (ladder.size() < 2) return nan;
    const std::vector<double> y = log_qualities(ladder);
    return y.back() - y.front();
}

double spread(const Points& ladder) {
    if (ladder.size() < 2) return nan;
    const std::vector<double> y = log_qualities(ladder);
    const auto [least, most] = std::minmax_element(y.begin(), y.end());
    return *most - *least;
}

double bulge(const Points& ladder) {
    const std::vector<double> y = log_qualities(ladder);
    if (y.size() < 3) return nan;
    return *std::max_element(y.begin() + 1, y.end() - 1) - std::max(y.front(), y.back());
}

fs::path write_alpha(const std::vector<SeedLadders>& results, const TradeoffOptions& options) {
    const std::vector<Claim> claims = claims_of(results);
    const std::string& split = options.splits.front();
    Page page("What α does",
              cat("UIPE goes on from an unlearned model along its update, by α times its length. The UIPE paper (arXiv "
                  "2503.04693, section 5.6) describes what forget quality does as α grows. Here on ",
                  escaped(split), "."));
    page.made_by(options.command);
    page.claims(claims, results.size());
    page.paragraph(
        "A seed in which the model before unlearning has a forget quality above 0.05 itself says nothing; neither does "
        "a single α, nor fewer than three about a rise and a fall.");
    add_curves(page, results, options);
    add_table(page, results, options);
    Json json{{"command", options.command}, {"split", split}, {"claims", json_of(claims)}, {"seeds", Json::array()}};
    std::ostringstream csv;
    csv.precision(17);
    csv << "seed,split,method," << points_head;
    for (const SeedLadders& r : results) {
        Json one{{"seed", r.seed}};
        for (const auto& [method, points] : r.ladders) {
            one["ladders"][method] = json_of(points);
            write_points(csv, cat(r.seed, ",", split, ",", method), points);
        }
        json["seeds"].push_back(one);
    }
    write_json(options.out / "alpha.json", json);
    write_file(options.out / "alpha.csv", csv.str());
    const fs::path file = options.out / "alpha.html";
    page.write(file);
    say_results(claims);
    return file;
}

}  // namespace uipe::unlearn
