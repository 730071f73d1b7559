#include "unlearn/experiment/related_page.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

#include "unlearn/experiment/claims.h"
#include "unlearn/experiment/page.h"
#include "unlearn/experiment/small_world.h"
#include "unlearn/progress.h"
#include "unlearn/report/html.h"
#include "unlearn/report/parts.h"

namespace uipe::unlearn {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

using Value = double (*)(const KnowledgePoint&);
double utility(const KnowledgePoint& p) { return p.utility; }
double log_quality_k1(const KnowledgePoint& p) { return log_quality(p.quality_k1); }
double log_quality_k2(const KnowledgePoint& p) { return log_quality(p.quality_k2); }
double probability_k1(const KnowledgePoint& p) { return p.k1.probability; }
double probability_k2(const KnowledgePoint& p) { return p.k2.probability; }
double right_k1(const KnowledgePoint& p) { return p.k1.right; }
double probability_retained(const KnowledgePoint& p) { return p.retain; }

/// One number of every seed.
template <class F>
std::vector<double> of_seeds(const std::vector<SeedResult>& results, const F& f) {
    std::vector<double> out;
    for (const SeedResult& r : results) out.push_back(f(r));
    return out;
}

/// The mean of a value over the first half of a model's epochs: later ones may have forgotten too much, which forget
/// quality does not tell from too little.
double over_epochs(const SeedResult& r, const std::string& model, Value value) {
    const auto& points = r.models.at(model);
    const std::size_t half = std::max<std::size_t>(1, (points.size() - 1) / 2);
    double sum = 0;
    for (std::size_t i = 1; i <= half; ++i) sum += value(points[i]);
    return sum / static_cast<double>(half);
}

const KnowledgePoint& first(const SeedResult& r, const std::string& model) { return r.models.at(model).front(); }

/// What a model has paid of its utility where K1's probability has fallen half-way to that of a model that never met
/// it.
double price_half_way(const SeedResult& r, const std::string& model) {
    const double half = (first(r, model).k1.probability + r.unknown_k1.probability) / 2;
    return first(r, model).utility - where_reached(r.models.at(model), half, probability_k1, utility);
}

/// M1 after the last epoch up to which it has kept 95 % of its utility, the first at least: what is seen later may be
/// the model's ruin.
const KnowledgePoint& while_kept(const SeedResult& r) {
    const auto& points = r.models.at("M1");
    std::size_t i = 1;
    while (i + 1 < points.size() && points[i + 1].utility >= 0.95 * points.front().utility) ++i;
    return points[i];
}

/// The share of a value that M1 has lost by then.
double lost(const SeedResult& r, Value value) { return 1 - value(while_kept(r)) / value(first(r, "M1")); }

/// UIPE at α = 1, fixed in advance: a best α would be chosen by what is then reported. The nearest α where 1 is not
/// among them.
const KnowledgePoint& extended(const SeedResult& r) {
    return *std::min_element(r.uipe.begin() + 1, r.uipe.end(), [](const KnowledgePoint& a, const KnowledgePoint& b) {
        return std::abs(a.alpha - 1) < std::abs(b.alpha - 1);
    });
}

/// UIPE less training on, where both know as much of K1.
double against_training_on(const SeedResult& r, Value value) {
    const KnowledgePoint& p = extended(r);
    return value(p) - where_reached(r.models.at("M1"), p.k1.probability, probability_k1, value);
}

double number_at(const Json& json, const char* group, const char* key) {
    if (!json.contains(group) || !json[group].contains(key)) return nan;
    return json[group][key].get<double>();
}

/// The mean over epochs of how much of the update lies along a set's gradient: the cosine of the two.
double share_along(const SeedResult& r, const char* set) {
    std::vector<double> shares;
    for (const Json& u : r.gradients["updates"]) shares.push_back(u[set].get<double>() / u["length"].get<double>());
    return estimate(shares).mean;
}

}  // namespace

std::vector<Claim> claims_of(const std::vector<SeedResult>& results) {
    const auto of = [&](auto f) { return of_seeds(results, f); };
    using R = const SeedResult&;
    return {
        {"premise", "K1 can be inferred from K2", "share of K1 right after learning K2 alone, less chance",
         of([](R r) { return r.inferred_k1.right - r.inferred_k1.chance; })},
        {"figure 2", "Where K2 remains, K1 is forgotten less: M1 behind M2",
         "log10 forget quality of K1, mean over the first half of epochs, M2 less M1",
         of([](R r) { return over_epochs(r, "M2", log_quality_k1) - over_epochs(r, "M1", log_quality_k1); })},
        {"figure 2", "Forgetting K2 as well helps: M1 behind M3",
         "log10 forget quality of K1, mean over the first half of epochs, M3 less M1",
         of([](R r) { return over_epochs(r, "M3", log_quality_k1) - over_epochs(r, "M1", log_quality_k1); })},
        {"", "The same by answers: M1 still tells more of K1 than M2",
         "share of K1 right, mean over the first half of epochs, M1 less M2",
         of([](R r) { return over_epochs(r, "M1", right_k1) - over_epochs(r, "M2", right_k1); })},
        {"table 1", "M1 pays more utility than M2 for as much forgetting",
         "model utility paid until K1 is half-way forgotten, M1 less M2",
         of([](R r) { return price_half_way(r, "M1") - price_half_way(r, "M2"); })},
        {"table 1", "M1 pays more utility than M3 for as much forgetting",
         "model utility paid until K1 is half-way forgotten, M1 less M3",
         of([](R r) { return price_half_way(r, "M1") - price_half_way(r, "M3"); })},
        {"figure 3", "Unlearning K1 makes M1 forget K2 too",
         "share of K2’s probability lost while 95 % of utility is kept",
         of([](R r) { return lost(r, probability_k2); })},
        {"figure 3", "but less than K1", "share lost of K1’s probability less that of K2’s, then",
         of([](R r) { return lost(r, probability_k1) - lost(r, probability_k2); })},
        {"control", "and more than of what is to be kept",
         "share lost of K2’s probability less that of the retain set’s answers, then",
         of([](R r) { return lost(r, probability_k2) - lost(r, probability_retained); })},
        {"figure 3", "and then it slows down",
         "fall of K2’s probability in the first half of all epochs less in the second", of([](R r) {
             const auto& m1 = r.models.at("M1");
             return m1.front().k2.probability + m1.back().k2.probability - 2 * m1[m1.size() / 2].k2.probability;
         })},
        {"equation 3", "Gradients of K1 and the K2 that implies it are alike",
         "cosine, less that with a K2 of another kind and person", of([](R r) {
             return number_at(r.gradients, "cosine", "related") - number_at(r.gradients, "cosine", "unrelated");
         })},
        {"", "more than with another K2 of the same person", "cosine, less that with another K2 of the person",
         of([](R r) {
             return number_at(r.gradients, "cosine", "related") - number_at(r.gradients, "cosine", "same_person");
         })},
        {"equation 4", "The update on K1 goes along K2's gradient", "cosine of the two, mean over epochs",
         of([](R r) { return share_along(r, "k2"); })},
        {"", "more than along the gradient of what is to be kept", "the same, less that with the retain set's",
         of([](R r) { return share_along(r, "k2") - share_along(r, "retain"); })},
        {"figure 8", "UIPE at α = 1 forgets K1 better", "log10 forget quality of K1, after less before",
         of([](R r) { return log_quality_k1(extended(r)) - log_quality_k1(r.uipe.front()); })},
        {"figure 8", "and K2 as well", "log10 forget quality of K2, after less before",
         of([](R r) { return log_quality_k2(extended(r)) - log_quality_k2(r.uipe.front()); })},
        {"figure 8", "at little cost", "0.05 of the utility before, less what is lost",
         of([](R r) { return extended(r).utility - 0.95 * r.uipe.front().utility; })},
        {"control", "UIPE removes more of K2 than training on to the same K1",
         "probability of K2, trained on less UIPE", of([](R r) { return -against_training_on(r, probability_k2); })},
        {"control", "and keeps more utility", "model utility, UIPE less trained on",
         of([](R r) { return against_training_on(r, utility); })},
    };
}

namespace {

/// The mean over seeds, point by point.
Series curve(const std::vector<SeedResult>& results, const std::string& model, Value value, int color, bool power,
             Line line = Line::solid) {
    Series out{{}, color, line, line == Line::solid ? Marker::dot : Marker::ring};
    for (std::size_t i = 0; i < results.front().models.at(model).size(); ++i) {
        const double mean =
            estimate(of_seeds(results, [&](const SeedResult& r) { return value(r.models.at(model)[i]); })).mean;
        out.points.emplace_back(results.front().models.at(model)[i].epoch, power ? std::pow(10, mean) : mean);
    }
    return out;
}

Series alpha_curve(const std::vector<SeedResult>& results, Value value, int color, bool power) {
    Series out{{}, color, Line::dashed, Marker::diamond};
    for (std::size_t i = 0; i < results.front().uipe.size(); ++i) {
        const double mean = estimate(of_seeds(results, [&](const SeedResult& r) { return value(r.uipe[i]); })).mean;
        out.points.emplace_back(results.front().uipe[i].alpha, power ? std::pow(10, mean) : mean);
    }
    return out;
}

Plot quality_plot(const std::string& x) {
    return {.x_label = x,
            .y_label = "forget quality",
            .whole_x = x == "epoch",
            .log_y = true,
            .log_floor = least_quality,
            .threshold = forget_quality_threshold};
}

void add_curves(Page& page, const std::vector<SeedResult>& results) {
    Plot quality = quality_plot("epoch");
    Plot kept{.x_label = "epoch", .y_label = "model utility", .whole_x = true};
    Plot right{.x_label = "epoch", .y_label = "share of K1 right", .whole_x = true};
    int color = 0;
    for (const char* model : {"M1", "M2", "M3"}) {
        quality.series.push_back(curve(results, model, log_quality_k1, color, true));
        kept.series.push_back(curve(results, model, utility, color, false));
        right.series.push_back(curve(results, model, right_k1, color++, false));
    }
    page.heading("Three ways to have known and to forget (figure 2)");
    page.paragraph(
        "M1 learned K1 and K2 and unlearns K1. M2 learned K1 and unlearns it. M3 learned both and unlearns "
        "both. All learn for as many steps over as many rows: what is missing is made up by replayed rows of the "
        "pretraining data or, where there are none, by more epochs. They unlearn for as many steps; M3’s batches hold "
        "twice the rows. Curves are "
        "means over seeds; of forget quality, of its logarithm.");
    page.legend({"M1", "M2", "M3"});
    page.figures({{quality, "Forget quality of K1", "The dashed line is 0.05."},
                  {kept, "Model utility", ""},
                  {right, "Share of K1 right", "Of a right answer and its false ones, the right one is likeliest."}});

    Plot both = quality_plot("epoch");
    Plot probability{.x_label = "epoch", .y_label = "probability", .whole_x = true};
    both.series = {curve(results, "M1", log_quality_k1, 0, true), curve(results, "M1", log_quality_k2, 1, true)};
    probability.series = {curve(results, "M1", probability_k1, 0, false),
                          curve(results, "M1", probability_k2, 1, false)};
    page.heading("What unlearning K1 does to K2 (figure 3, M1)");
    page.legend({"K1, unlearned", "K2, related"});
    page.figures({{both, "Forget quality", ""}, {probability, "Probability of the paraphrased answers", ""}});
}

void add_gradients(Page& page, const std::vector<SeedResult>& results) {
    const auto mean = [&](const char* group, const char* key) {
        return text_of(
            estimate(of_seeds(results, [&](const SeedResult& r) { return number_at(r.gradients, group, key); })));
    };
    page.heading("Gradients of K1 and K2 (equations 2 and 3)");
    page.paragraph(
        "Cosines of the gradients of one K1 row’s loss and one K2 row’s, at the model that learned both, "
        "mean over pairs: the K2 that implies it, another K2 of the same person, and a K2 of another kind "
        "and person. The last row compares the whole sets’ gradients.");
    std::vector<std::vector<std::string>> rows{
        {"all parameters", mean("cosine", "related"), mean("cosine", "same_person"), mean("cosine", "unrelated")}};
    const Json& layers = results.front().gradients["layers"];
    for (const auto& [layer, unused] : layers.items()) {
        const auto cell = [&, name = layer](const char* kind) {
            return text_of(estimate(of_seeds(
                results, [&](const SeedResult& r) { return number_at(r.gradients["layers"], name.c_str(), kind); })));
        };
        rows.push_back({layer, cell("related"), cell("same_person"), cell("unrelated")});
    }
    rows.push_back({"K1 with K2, with the retain set", mean("sets", "k2"), "", mean("sets", "retain")});
    const std::string unrelated = results.front().gradients.value("unrelated", "another person and kind");
    page.table({"", "the K2 that implies it", "same person, another K2", unrelated}, rows);

    Plot along{.x_label = "epoch", .y_label = "length along the gradient", .whole_x = true};
    Plot by_alpha{.x_label = "α", .y_label = "length along the gradient"};
    int color = 0;
    for (const char* set : {"k1", "k2", "retain"}) {
        const auto series = [&](const char* list, const char* x, Line line, Marker marker) {
            Series out{{}, color, line, marker};
            for (std::size_t i = 0; i < results.front().gradients[list].size(); ++i)
                out.points.emplace_back(results.front().gradients[list][i][x].get<double>(),
                                        estimate(of_seeds(results, [&](const SeedResult& r) {
                                            return r.gradients[list][i][set].get<double>();
                                        })).mean);
            return out;
        };
        along.series.push_back(series("updates", "epoch", Line::solid, Marker::dot));
        by_alpha.series.push_back(series("uipe", "alpha", Line::dashed, Marker::diamond));
        ++color;
    }
    page.heading("The update along them (equations 4 and 6, M1)");
    page.paragraph(
        "How far θ − θ<sub>0</sub> goes along the gradient of each set’s loss at θ<sub>0</sub>: above 0, the "
        "loss grows and the set is forgotten. UIPE multiplies it by 1 + α, for every set alike.");
    page.legend({"K1", "K2", "retain set"});
    page.figures({{along, "By epoch", ""}, {by_alpha, "After UIPE", ""}});
}

void add_uipe(Page& page, const std::vector<SeedResult>& results) {
    Plot quality = quality_plot("α");
    quality.series = {alpha_curve(results, log_quality_k1, 0, true), alpha_curve(results, log_quality_k2, 1, true)};
    Plot probability{.x_label = "α", .y_label = "probability"};
    probability.series = {alpha_curve(results, probability_k1, 0, false),
                          alpha_curve(results, probability_k2, 1, false)};
    Plot kept{.x_label = "α", .y_label = "model utility"};
    kept.series = {alpha_curve(results, utility, 2, false)};
    std::vector<std::vector<std::string>> rows;
    for (const SeedResult& r : results)
        rows.push_back({std::to_string(r.seed), number_text(r.uipe.front().epoch), number_text(while_kept(r).epoch)});
    page.heading("UIPE on M1 (figure 8)");
    page.paragraph(
        "The claims are of α = 1, fixed in advance. The epoch extrapolated is the last before forget quality of K1 "
        "passes 0.05, or the middle one where it never does.");
    page.table({"seed", "epoch extrapolated", "last that keeps 95 % of utility"}, rows);
    page.legend({"K1", "K2", "all else"});
    page.figures({{quality, "Forget quality", ""}, {probability, "Probability", ""}, {kept, "Model utility", ""}});
    Plot control{.x_label = "probability of K1 (left: more was forgotten)", .y_label = "probability of K2"};
    Plot price{.x_label = "probability of K1 (left: more was forgotten)", .y_label = "model utility"};
    const auto path = [&](const std::vector<Value>& xy, bool uipe) {
        Series out{{}, uipe ? 1 : 0, uipe ? Line::dashed : Line::solid, uipe ? Marker::diamond : Marker::dot};
        const auto points = [&](const SeedResult& r) -> const std::vector<KnowledgePoint>& {
            return uipe ? r.uipe : r.models.at("M1");
        };
        for (std::size_t i = 0; i < points(results.front()).size(); ++i)
            out.points.emplace_back(
                estimate(of_seeds(results, [&](const SeedResult& r) { return xy[0](points(r)[i]); })).mean,
                estimate(of_seeds(results, [&](const SeedResult& r) { return xy[1](points(r)[i]); })).mean);
        return out;
    };
    for (const bool uipe : {false, true}) {
        control.series.push_back(path({probability_k1, probability_k2}, uipe));
        price.series.push_back(path({probability_k1, utility}, uipe));
    }
    page.paragraph(
        "The control: the same run simply trained on. Where the two lines lie on each other, UIPE is a "
        "cheaper way to the same place.");
    page.legend({"M1, epoch by epoch", "UIPE, α growing"});
    page.figures({{control, "What is left of K2 for as much of K1", ""}, {price, "and of utility", ""}});
}

void add_inference(Page& page, const std::vector<SeedResult>& results) {
    std::vector<std::vector<std::string>> rows;
    const auto add = [&](const std::string& name, Recall SeedResult::*recall) {
        rows.push_back({name,
                        text_of(estimate(of_seeds(results, [&](const SeedResult& r) { return (r.*recall).right; }))),
                        text_of(estimate(of_seeds(results, [&](const SeedResult& r) { return (r.*recall).chance; })))});
    };
    add("K1, before anything of these people is learned", &SeedResult::unknown_k1);
    add("K1, after learning their K2 alone", &SeedResult::inferred_k1);
    add("K2 of the same model", &SeedResult::learned_k2);
    page.heading("Is K1 inferred from K2 at all?");
    page.paragraph(
        "Without that, nothing below means anything. A row is right when its paraphrased answer is likelier, "
        "by token, than each of its false ones.");
    page.table({"", "share right", "chance"}, rows);
}

Json json_of(const Recall& r) { return {{"right", r.right}, {"chance", r.chance}, {"probability", r.probability}}; }

Json json_of(const std::vector<KnowledgePoint>& points) {
    Json out = Json::array();
    for (const KnowledgePoint& p : points)
        out.push_back({{"epoch", p.epoch},
                       {"alpha", p.alpha},
                       {"model_utility", p.utility},
                       {"forget_quality_k1", p.quality_k1},
                       {"forget_quality_k2", p.quality_k2},
                       {"retain_probability", p.retain},
                       {"k1", json_of(p.k1)},
                       {"k2", json_of(p.k2)}});
    return out;
}

Json json_of(const std::vector<SeedResult>& results, const std::vector<Claim>& claims, const std::string& command) {
    Json out{{"command", command}, {"claims", json_of(claims)}, {"seeds", Json::array()}};
    for (const SeedResult& r : results) {
        Json one{{"seed", r.seed},
                 {"unknown_k1", json_of(r.unknown_k1)},
                 {"inferred_k1", json_of(r.inferred_k1)},
                 {"learned_k2", json_of(r.learned_k2)}};
        for (const auto& [name, points] : r.models) one["models"][name] = json_of(points);
        one["uipe"] = json_of(r.uipe);
        one["gradients"] = r.gradients;
        out["seeds"].push_back(one);
    }
    return out;
}

std::string csv_of(const std::vector<SeedResult>& results) {
    std::ostringstream out;
    out.precision(9);
    out << "seed,model,epoch,alpha,model_utility,forget_quality_k1,forget_quality_k2,right_k1,right_k2,probability_k1,"
           "probability_k2\n";
    const auto add = [&](std::uint64_t seed, const std::string& model, const std::vector<KnowledgePoint>& points) {
        for (const KnowledgePoint& p : points)
            out << seed << ',' << model << ',' << p.epoch << ',' << p.alpha << ',' << p.utility << ',' << p.quality_k1
                << ',' << p.quality_k2 << ',' << p.k1.right << ',' << p.k2.right << ',' << p.k1.probability << ','
                << p.k2.probability << '\n';
    };
    for (const SeedResult& r : results) {
        for (const auto& [name, points] : r.models) add(r.seed, name, points);
        add(r.seed, "M1+UIPE", r.uipe);
    }
    return out.str();
}

}  // namespace

double where_reached(const std::vector<KnowledgePoint>& points, double at, Value level, Value value) {
    for (std::size_t i = 1; i < points.size(); ++i) {
        const double above = level(points[i - 1]);
        const double below = level(points[i]);
        if (above < at || below > at || above == below) continue;
        const double share = (above - at) / (above - below);
        return value(points[i - 1]) + share * (value(points[i]) - value(points[i - 1]));
    }
    return nan;
}

fs::path write_related(const std::vector<SeedResult>& results, const RelatedOptions& options) {
    const std::vector<Claim> claims = claims_of(results);
    Page page("Related knowledge",
              cat("K2 are facts from which K1 can be inferred. The UIPE paper (arXiv 2503.04693) claims that a model "
                  "from which K1 is unlearned while K2 remains forgets it worse, that unlearning K1 takes some of K2 "
                  "with it, and that UIPE, going on along the update, takes more. Unlearning here is by ",
                  escaped(method_name(options.method)), "."));
    page.made_by(options.command);
    page.claims(claims, results.size());
    add_inference(page, results);
    add_curves(page, results);
    add_gradients(page, results);
    add_uipe(page, results);
    write_json(options.out / "related.json", json_of(results, claims, options.command));
    write_file(options.out / "related.csv", csv_of(results));
    const fs::path file = options.out / "related.html";
    page.write(file);
    say_results(claims);
    return file;
}

}  // namespace uipe::unlearn
