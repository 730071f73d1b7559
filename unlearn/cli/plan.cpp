// uipe plan.
#include <cstdio>

#include "llama/presets.h"
#include "tensor/available_memory.h"
#include "unlearn/cli/command.h"
#include "unlearn/cli/lora_options.h"
#include "unlearn/plan.h"
#include "unlearn/prediction.h"
#include "unlearn/session.h"

namespace uipe::unlearn {
namespace {

struct PlanArguments {
    fs::path model;
    fs::path init;
    std::string preset;
    std::string method;
    std::int64_t batch_size = 32, micro_batch = 0;
    std::int64_t length = 512, targets = 0;
    std::string recompute = "norm";
    int ranks = 1, zero = 0;
    LoraArguments lora;
    bool kl_on_answers = false;
    bool measure = false;
    std::string chip;
    std::string memory;
    std::string shares;
};

void require_count(const char* flag, std::int64_t value, std::int64_t least) {
    constexpr std::int64_t most = 1'000'000;
    require_input(least <= value && value <= most, flag, " must be between ", least, " and ", most, ", not ", value);
}

llama::Config config_of_arguments(const PlanArguments& a) {
    require_input(int{!a.model.empty()} + int{!a.init.empty()} + int{!a.preset.empty()} == 1,
                  "give one of --model DIR, --init config.json and --preset NAME");
    if (!a.preset.empty()) return llama::preset(a.preset);
    return llama::read_config(a.model.empty() ? a.init : a.model);
}

PlanRequest request_of(const PlanArguments& a, const Common& common) {
    require_count("--batch-size", a.batch_size, 1);
    require_count("--micro-batch", a.micro_batch, 0);
    require_count("--seq", a.length, 2);
    require_count("--targets", a.targets, 0);
    require_input(a.targets < a.length, "--targets ", a.targets, ": a row of --seq ", a.length, " has ", a.length - 1,
                  " at most");
    PlanRequest r;
    r.config = config_of_arguments(a);
    r.objective = a.method.empty() ? &fine_tuning() : &unlearning_objective(a.method);
    r.dtype = common.type();
    r.device = a.chip.empty() ? common.where() : tensor::Device{tensor::Device::Kind::cuda};
    r.maps_weights = r.device.kind == tensor::Device::Kind::cpu && !a.model.empty() &&
                     stays_mapped({r.config, {}, nullptr, a.model}, r.dtype, r.device);
    r.recompute = llama::recompute_named(a.recompute);
    require_count("--ranks", a.ranks, 1);
    require_input(a.zero >= 0 && a.zero <= 3, "--zero must be 0, 1, 2 or 3, not ", a.zero);
    r.ranks = a.ranks;
    r.zero = a.zero;
    r.lora = a.lora.finished();
    r.trainer.epochs = 1;
    r.trainer.batch_size = a.batch_size;
    r.trainer.micro_batch = a.micro_batch;
    r.trainer.objective.kl_on_answers = a.kl_on_answers;
    r.data = synthetic_data(r.config, a.batch_size, a.length, a.targets > 0 ? a.targets : a.length - 1);
    return r;
}

std::size_t memory_of(const PlanArguments& a, tensor::Device device) {
    if (!a.memory.empty()) return parse_size(a.memory);
    if (!a.chip.empty()) return static_cast<std::size_t>(chip_named(a.chip).memory);
    return tensor::available_memory(device);
}

std::string size(std::size_t bytes) { return size_text(static_cast<double>(bytes)); }

Json memory_json(const Plan& plan) {
    Json out{{"peak", plan.memory.peak},
             {"place", plan.memory.place_of_peak},
             {"mapped", plan.mapped},
             {"outside", plan.outside},
             {"needed", plan.needed()}};
    for (std::size_t i = 0; i < tensor::num_memory_classes; ++i)
        out["classes"][tensor::name_of(static_cast<tensor::MemoryClass>(i))] = plan.memory.at_peak[i];
    return out;
}

void print_memory(const Plan& plan) {
    std::printf("memory at the peak (%s)\n", plan.memory.place_of_peak.c_str());
    const auto row = [](const char* name, std::size_t bytes) {
        std::printf("  %-24s %10s\n", name, size(bytes).c_str());
    };
    for (std::size_t i = 0; i < tensor::num_memory_classes; ++i)
        if (plan.memory.at_peak[i] > 0)
            row(tensor::name_of(static_cast<tensor::MemoryClass>(i)), plan.memory.at_peak[i]);
    row("tensors", plan.memory.peak);
    if (plan.mapped > 0) row("reference in its files", plan.mapped);
    row("beside tensors, about", plan.outside);
    row("all", plan.needed());
}

std::string verdict(const Plan& plan, std::size_t memory, const std::optional<Fit>& other) {
    const std::string text = cat(size(plan.needed()), " of ", size(memory), ": ");
    if (plan.needed() <= memory) return text + "fits";
    if (!other) return text + "does not fit, nor with a smaller micro-batch, recompute or bf16";
    return cat(text, "does not fit; it does with ", other->flags, " (", size(other->plan.needed()), ")");
}

Json time_json(const Plan& plan, const Prediction& p) {
    Json out{{"tokens", plan.tokens},
             {"flops", plan.flops()},
             {"seconds", p.step},
             {"tok_per_s", static_cast<double>(plan.tokens) / p.step}};
    for (std::size_t i = 0; i < plan.work.size(); ++i)
        out["families"][tensor::name_of(static_cast<tensor::Family>(i))] = {{"calls", plan.work[i].calls},
                                                                            {"flops", plan.work[i].work.flops},
                                                                            {"bytes", plan.work[i].work.bytes},
                                                                            {"seconds", p.seconds[i]}};
    return out;
}

/// What a step is timed by: a chip's data sheet, or this machine as it is measured. No name: no time is predicted.
struct Basis {
    std::string name;
    const char* source = "";
    tensor::Roofs roofs;
};

Basis basis_of(const PlanArguments& a, const Common& common) {
    if (!a.chip.empty()) return {a.chip, "data sheet", chip_named(a.chip).roofs(common.type())};
    if (!a.measure) return {};
    return {tensor::description(common.where()), "measured", tensor::measure_roofs(common.type(), common.where())};
}

void print_time(const Plan& plan, const Prediction& p, const PredictionOptions& o, const Basis& basis) {
    std::printf("a step of %s tokens on %s: about %.3g s, %s tok/s, %.0f %% of its FLOP/s\n",
                std::to_string(plan.tokens).c_str(), basis.name.c_str(), p.step,
                std::to_string(static_cast<std::int64_t>(static_cast<double>(plan.tokens) / p.step)).c_str(),
                100.0 * plan.flops() / p.step / basis.roofs.flops);
    std::printf("  %-14s %8s %12s %12s %10s %9s\n", "", "calls", "TFLOP", "GB moved", "of roof", "seconds");
    for (std::size_t i = 0; i < plan.work.size(); ++i)
        if (plan.work[i].calls > 0)
            std::printf("  %-14s %8lld %12.4g %12.4g %8.0f %% %9.3g\n", tensor::name_of(static_cast<tensor::Family>(i)),
                        static_cast<long long>(plan.work[i].calls), plan.work[i].work.flops * 1e-12,
                        plan.work[i].work.bytes * 1e-9, 100.0 * o.shares[i], p.seconds[i]);
    std::printf(
        "  assumed: %.3g TFLOP/s and %.3g TB/s at most (%s), each family at its share (--shares), and %.0f us of "
        "the host's time an op\n",
        basis.roofs.flops * 1e-12, basis.roofs.bytes * 1e-12, basis.source, o.launch * 1e6);
}

Json plan(const PlanArguments& a, const Common& common) {
    require_input(!a.measure || a.chip.empty(), "--measure measures this machine; leave out --chip");
    PredictionOptions options;
    options.shares = parse_shares(a.shares);
    const PlanRequest request = request_of(a, common);
    const std::size_t memory = memory_of(a, request.device);
    const Basis basis = basis_of(a, common);
    const Plan plan = make_plan(request, basis.roofs);
    const bool fits = plan.needed() <= memory;
    const std::optional<Fit> other = fits ? std::nullopt : nearest_fit(request, memory);
    Json out{{"parameters", llama::parameter_count(request.config)},
             {"memory", memory_json(plan)},
             {"available", memory},
             {"fits", fits}};
    if (other) out["fits_with"] = {{"flags", other->flags}, {"memory", memory_json(other->plan)}};
    if (!basis.name.empty()) out["step"] = time_json(plan, predict(plan.work, options));
    if (!prints_text(common)) return out;
    print_memory(plan);
    std::printf("%s\n", verdict(plan, memory, other).c_str());
    if (!basis.name.empty()) print_time(plan, predict(plan.work, options), options, basis);
    return out;
}

}  // namespace

void add_plan(CLI::App& app) {
    const auto a = std::make_shared<PlanArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "plan", "Say what memory and time a run will take, before it begins", common,
                              [a, common](const CLI::App&) { return plan(*a, *common); });
    c->add_option("--model", a->model, "Model folder; its weights are not read");
    c->add_option("--init", a->init, "config.json of a model");
    c->add_option("--preset", a->preset, "A well-known model: " + llama::preset_names());
    std::string methods;
    for (const Objective& o : objectives())
        if (o.unlearns) methods += (methods.empty() ? "" : ", ") + o.name;
    c->add_option("--method", a->method, "Unlearning by " + methods + "; without: fine-tuning");
    c->add_option("--batch-size", a->batch_size, "Rows an optimizer step");
    c->add_option("--micro-batch", a->micro_batch, "Rows a forward pass; 0: the batch");
    c->add_option("--seq", a->length, "Tokens of every row");
    c->add_option("--targets", a->targets, "Those of them that are learned, the last; 0: all but the first");
    c->add_option("--recompute", a->recompute, "none, norm, mlp or block (alone), as uipe train --help says")
        ->expected(0, 1)
        ->default_str("block");
    c->add_option("--ranks", a->ranks, "Processes that share the run, each with memory of its own");
    c->add_option("--zero", a->zero, "What they keep once: 1 the optimizer's state, 2 also gradients, 3 also weights");
    add_lora_options(*c, a->lora);
    c->add_flag("--kl-on-answers", a->kl_on_answers, "KL Min: average over answers, not over prompts and answers");
    std::string names;
    for (const Chip& chip : chips()) names += (names.empty() ? "" : ", ") + std::string(chip.name);
    c->add_option("--chip", a->chip, "A GPU that need not be here: " + names + "; without: --device of this machine");
    c->add_flag("--measure", a->measure,
                "Measure what this machine can do at most, and say what a step will take on it");
    c->add_option("--memory", a->memory, "What there is, such as 80G; without: the chip's, or what is free here");
    c->add_option("--shares", a->shares, "Shares of the chip's roofs that ops reach, such as matmul=0.7,attention=0.5");
    c->footer(
        "Example: uipe plan --preset llama2-7b --dtype bf16 --method kl_min --micro-batch 4 --recompute --chip h200");
}

}  // namespace uipe::unlearn
