#include "unlearn/experiment/related.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>

#include "tensor/base/json.h"
#include "unlearn/dataset.h"
#include "unlearn/experiment/geometry.h"
#include "unlearn/experiment/knowledge.h"
#include "unlearn/experiment/related_page.h"
#include "unlearn/experiment/results.h"
#include "unlearn/experiment/statistics.h"
#include "unlearn/extrapolate.h"
#include "unlearn/progress.h"
#include "unlearn/report/parts.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

/// The weights of a model folder, or of an adapter's with its product added.
llama::StateDict whole_weights(const fs::path& folder, const llama::Config& config) {
    const llama::StateDict weights = load_weights(base_of(folder), config);
    return llama::is_adapter(folder) ? llama::merged(weights, llama::read_adapter(folder, config)) : weights;
}

/// One seed.
class Study {
public:
    Study(const RelatedOptions& options, std::uint64_t seed, const Cache& cache)
        : o_(options), seed_(seed), cache_(cache) {}

    SeedResult run() {
        out_.seed = seed_;
        start();
        infer();
        const fs::path both = fine_tuned("both", {at("forget_both.json")}, 1);
        const fs::path k1 = fine_tuned("k1", {at("forget_k1_perturbed.json")}, 3);
        const fs::path m1 = unlearned("M1", both, "forget_k1_perturbed.json", 1);
        unlearned("M2", k1, "forget_k1_perturbed.json", 1);
        unlearned("M3", both, "forget_both.json", 2);
        extrapolate(both, m1);
        measure_gradients(both, m1);
        return out_;
    }

private:
    std::string at(const std::string& file) const { return (data_ / file).string(); }
    /// The epoch to extrapolate: the last before forgetting of K1 first passes for never having known it, which is
    /// where more is wanted; the middle one where it never does.
    int base_epoch() const {
        if (o_.uipe_epoch > 0) return o_.uipe_epoch;
        const auto& points = out_.models.at("M1");
        for (int epoch = 1; epoch <= o_.epochs; ++epoch)
            if (points[static_cast<std::size_t>(epoch)].quality_k1 > forget_quality_threshold)
                return std::max(1, epoch - 1);
        return std::max(1, o_.epochs / 2);
    }

    Words seeded(Words words) const {
        words.insert(words.end(), {"--seed", std::to_string(seed_)});
        return words;
    }

    /// The model, the data, and what a model that knows neither K1 nor K2 makes of them.
    void start() {
        KnowledgeFiles files{o_.k1, o_.k2, {}, o_.tofu};
        if (o_.model.empty()) {
            const SmallWorld made = small_world({.width = o_.width,
                                                 .layers = o_.layers,
                                                 .epochs = o_.pretraining_epochs,
                                                 .related_people = o_.related_people,
                                                 .seed = seed_,
                                                 .form = o_.form},
                                                cache_);
            model_ = made.model;
            files.retain = made.world / "related_retain_perturbed.json";
            files.general = made.world;
            replay_ = made.pretraining;
            if (files.k1.empty())
                files = {made.world / "related_k1.json", made.world / "related_k2.json", files.retain, files.general,
                         10};
        } else {
            model_ = o_.model;
            files.retain = eval::set_file(o_.tofu, "retain_perturbed");
        }
        a_person_ = files.a_person;
        data_ = cache_.make(
            "knowledge",
            {"knowledge", files.k1.string(), files.k2.string(), files.retain.string(), files.general.string()},
            [&](const fs::path& folder) { write_knowledge(files, folder); });
        for (const char* set : {"k1", "k2"}) reference_[set] = evaluated(cat("unknown-", set), model_, set);
    }

    Words evaluation(const std::string& set) const {
        Words words{"--tofu",        data_.string(),
                    "--split",       "forget_" + set,
                    "--eval-rows",   std::to_string(o_.eval_rows),
                    "--eval-tokens", std::to_string(o_.eval_tokens)};
        const Words form = form_words(o_.form);
        words.insert(words.end(), form.begin(), form.end());
        if (const auto log = reference_.find(set); log != reference_.end())
            words.insert(words.end(), {"--retain-log", (log->second / "TOFU_EVAL.json").string()});
        return words;
    }

    /// A model's log on one of the sets alone.
    fs::path evaluated(const std::string& name, const fs::path& model, const std::string& set) const {
        Words words{"eval", "--model", model.string(), "--forget-only"};
        const Words more = evaluation(set);
        words.insert(words.end(), more.begin(), more.end());
        return cache_.run(name, words);
    }

    /// The model fine-tuned on files of K1 and K2, with as much replayed as is needed for all runs to take as many
    /// steps; without rows to replay, more epochs make up for fewer rows.
    fs::path fine_tuned(const std::string& name, const Words& files, int replay_ratio) const {
        const int epochs = replay_.empty() ? o_.fine_epochs * (replay_ratio + 1) / 2 : o_.fine_epochs;
        Words words{"train",
                    "--model",
                    model_.string(),
                    "--epochs",
                    std::to_string(epochs),
                    "--batch-size",
                    std::to_string(2 * o_.batch_size),
                    "--lr",
                    number_text(o_.fine_lr),
                    "--warmup-epochs",
                    "1",
                    "--adam-beta2",
                    "0.98",
                    "--data"};
        words.insert(words.end(), files.begin(), files.end());
        if (!replay_.empty()) {
            words.emplace_back("--replay");
            words.insert(words.end(), replay_.begin(), replay_.end());
            words.insert(words.end(), {"--replay-ratio", std::to_string(replay_ratio)});
        }
        for (const Words& more : {lora(), form_words(o_.form)}) words.insert(words.end(), more.begin(), more.end());
        const fs::path run = cache_.run("learned-" + name, seeded(words));
        return product(run);
    }

    Words lora() const {
        if (o_.lora_rank == 0) return {};
        return {"--lora-rank", std::to_string(o_.lora_rank), "--lora-targets", "q_proj,v_proj"};
    }

    /// How many K1 a model tells that has seen K2 alone.
    void infer() {
        const fs::path model = fine_tuned("k2", {at("forget_k2_perturbed.json")}, 3);
        out_.unknown_k1 = recall_of(reference_.at("k1"));
        out_.inferred_k1 = recall_of(evaluated("inferred-k1", model, "k1"));
        out_.learned_k2 = recall_of(evaluated("inferred-k2", model, "k2"));
    }

    KnowledgePoint point(double epoch, double alpha, const fs::path& k1, const fs::path& k2) const {
        KnowledgePoint p;
        p.epoch = epoch;
        p.alpha = alpha;
        p.utility = metric(k1, "model_utility");
        p.quality_k1 = metric(k1, "forget_quality");
        p.quality_k2 = metric(k2, "forget_quality");
        p.retain = metric(k1, "retain_Q_A_Prob");
        p.k1 = recall_of(k1);
        p.k2 = recall_of(k2);
        return p;
    }

    fs::path unlearned(const std::string& name, const fs::path& start, const std::string& forget, int rows) {
        Words words{"unlearn",
                    "--model",
                    start.string(),
                    "--method",
                    o_.method,
                    "--forget",
                    at(forget),
                    "--epochs",
                    std::to_string(o_.epochs),
                    "--batch-size",
                    std::to_string(rows * o_.batch_size),
                    "--lr",
                    number_text(o_.lr),
                    "--schedule",
                    "constant",
                    "--warmup-epochs",
                    "1",
                    "--retain"};
        if (replay_.empty())
            words.push_back(at("retain_perturbed.json"));
        else
            words.insert(words.end(), replay_.begin(), replay_.end());
        for (const Words& part : {o_.method_options, evaluation("k1")})
            words.insert(words.end(), part.begin(), part.end());
        const fs::path run = cache_.run(name, seeded(words));
        for (int epoch = 0; epoch <= o_.epochs; ++epoch) {
            const fs::path folder = run / "epochs" / std::to_string(epoch);
            const fs::path k2 = evaluated(cat(name, "-", epoch, "-k2"), epoch == 0 ? start : product(folder), "k2");
            out_.models[name].push_back(point(epoch, 0, folder, k2));
        }
        return run;
    }

    void extrapolate(const fs::path& start, const fs::path& run) {
        const KnowledgePoint& base = out_.models.at("M1")[static_cast<std::size_t>(base_epoch())];
        out_.uipe.push_back(base);
        const auto one = [&](double alpha, const std::string& set) {
            const fs::path epoch = product(run / "epochs" / std::to_string(base_epoch()));
            Words words{"extrapolate",
                        "--base",
                        start.string(),
                        "--unlearned",
                        epoch.string(),
                        "--epoch",
                        std::to_string(base_epoch()),
                        "--alpha",
                        number_text(alpha),
                        "--no-models"};
            if (set == "k2") words.emplace_back("--forget-only");
            const Words more = evaluation(set);
            words.insert(words.end(), more.begin(), more.end());
            return cache_.run(cat("M1-alpha", number_text(alpha), "-", set), words);
        };
        for (const double alpha : o_.alphas)
            out_.uipe.push_back(point(base_epoch(), alpha, one(alpha, "k1"), one(alpha, "k2")));
    }

    /// Equations 2 to 6 on M1: at θ_0 the gradients, then the updates along them.
    void measure_gradients(const fs::path& start, const fs::path& run) {
        Words words{"gradients",    start.string(),           run.string(),
                    data_.string(), std::to_string(o_.pairs), std::to_string(base_epoch())};
        for (const double alpha : o_.alphas) words.push_back(number_text(alpha));
        if (o_.form != default_form) words.push_back(o_.form);
        const fs::path folder = cache_.make(
            "gradients", words, [&](const fs::path& to) { write_json(to / "gradients.json", gradients(start, run)); });
        out_.gradients = read_json(folder / "gradients.json");
        check_gradients(folder / "gradients.json");
    }

    /// InputError for what the page could not read: the file may have been damaged since.
    void check_gradients(const fs::path& file) const {
        const Json& g = out_.gradients;
        const auto lines = [&](const char* list, std::size_t n) {
            if (!g.contains(list) || !g[list].is_array() || g[list].size() != n) return false;
            return std::all_of(g[list].begin(), g[list].end(), [](const Json& line) {
                const auto number = [&](const char* key) { return line.contains(key) && line[key].is_number(); };
                return line.is_object() && number("epoch") && number("alpha") && number("length") && number("k1") &&
                       number("k2") && number("retain");
            });
        };
        const auto table = [](const Json& of) {
            return of.is_object() &&
                   std::all_of(of.begin(), of.end(), [](const Json& value) { return value.is_number(); });
        };
        bool whole = g.is_object() && g.contains("cosine") && g.contains("sets") && g.contains("layers") &&
                     table(g["cosine"]) && table(g["sets"]) && g["layers"].is_object() &&
                     lines("updates", static_cast<std::size_t>(o_.epochs)) && lines("uipe", o_.alphas.size());
        if (whole)
            for (const Json& layer : g["layers"]) whole = whole && table(layer);
        require_input(whole, file.string(), ": is damaged");
    }

    Json gradients(const fs::path& start, const fs::path& run) const {
        LoadedModel opened = open_model(base_of(start));
        const llama::StateDict initial = llama::own_weights(whole_weights(start, opened.config), tensor::DType::f32);
        const llama::Llama model(opened.config, initial);
        const auto rows = [&](const std::string& file) {
            return read_sequences(data_ / file, opened.tokenizer, llama::prompt_template(o_.form), 512);
        };
        const auto k1 = rows("forget_k1_perturbed.json");
        const auto k2 = rows("forget_k2_perturbed.json");
        const std::map<std::string, llama::StateDict> sets{{"k1", gradient(model, k1)},
                                                           {"k2", gradient(model, k2)},
                                                           {"retain", gradient(model, rows("retain_perturbed.json"))}};
        Json out = pair_cosines(model, k1, k2);
        out["sets"] = {{"k2", cosine(sets.at("k1"), sets.at("k2"))},
                       {"retain", cosine(sets.at("k1"), sets.at("retain"))}};
        const auto along = [&](double alpha, int epoch, const llama::StateDict& theta) {
            const llama::StateDict u = update(theta, initial);
            Json line{{"epoch", epoch}, {"alpha", alpha}, {"length", norm(u)}};
            for (const auto& [name, g] : sets) line[name] = projection(u, g);
            return line;
        };
        out["updates"] = Json::array();
        out["uipe"] = Json::array();
        for (int epoch = 1; epoch <= o_.epochs; ++epoch) {
            const llama::StateDict theta =
                whole_weights(product(run / "epochs" / std::to_string(epoch)), opened.config);
            out["updates"].push_back(along(0, epoch, theta));
            if (epoch != base_epoch()) continue;
            for (const double alpha : o_.alphas)
                out["uipe"].push_back(along(alpha, epoch, extrapolated(theta, initial, alpha)));
        }
        return out;
    }

    /// Row by row: K1's gradient beside that of the K2 that implies it, of another K2 of the same person, and of
    /// another K2 of another person; of another row, where persons are not known.
    Json pair_cosines(const llama::Llama& model, const std::vector<llama::Sequence>& k1,
                      const std::vector<llama::Sequence>& k2) const {
        const std::size_t n = k1.size();
        const std::size_t pairs = std::min(n, static_cast<std::size_t>(o_.pairs));
        std::map<std::string, std::vector<double>> all;
        std::map<std::string, std::map<std::string, std::vector<double>>> layers;
        Progress progress("gradients of pairs", static_cast<double>(pairs));
        for (std::size_t i = 0; i < pairs; ++i) {
            const std::size_t at = i * n / pairs;
            const llama::StateDict g1 = gradient(model, std::span(&k1[at], 1));
            const auto compare = [&](const char* kind, std::size_t other) {
                const llama::StateDict g2 = gradient(model, std::span(&k2[other], 1));
                all[kind].push_back(cosine(g1, g2));
                for (const auto& [layer, value] : cosine_by_layer(g1, g2)) layers[kind][layer].push_back(value);
            };
            compare("related", at);
            if (a_person_ > 1) compare("same_person", at - at % a_person_ + (at % a_person_ + 1) % a_person_);
            compare("unrelated", (at + n / 2 + 1) % n);
            progress.update(static_cast<double>(i + 1));
        }
        Json out{{"pairs", pairs}};
        if (a_person_ == 0) out["unrelated"] = "another row's K2";
        for (const auto& [kind, values] : all) out["cosine"][kind] = estimate(values).mean;
        for (const auto& [kind, by_layer] : layers)
            for (const auto& [layer, values] : by_layer) out["layers"][layer][kind] = estimate(values).mean;
        return out;
    }

    const RelatedOptions& o_;
    std::uint64_t seed_;
    const Cache& cache_;
    fs::path model_, data_;
    Words replay_;
    std::size_t a_person_ = 0;
    std::map<std::string, fs::path> reference_;
    SeedResult out_;
};

}  // namespace

fs::path run_related(const RelatedOptions& options) {
    const Cache cache(options.out / "runs", options.common);
    std::vector<SeedResult> results;
    for (int i = 0; i < options.seeds; ++i) {
        const std::uint64_t seed = options.seed + static_cast<std::uint64_t>(i);
        say(cat("\nseed ", seed, ", ", i + 1, " of ", options.seeds));
        results.push_back(Study(options, seed, cache).run());
    }
    return write_related(results, options);
}

}  // namespace uipe::unlearn
