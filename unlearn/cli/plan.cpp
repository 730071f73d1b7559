// uipe plan.
#include <cstdio>

#include "llama/presets.h"
#include "tensor/available_memory.h"
#include "unlearn/cli/command.h"
#include "unlearn/cli/lora_options.h"
#include "unlearn/cli/objective_options.h"
#include "unlearn/cli/optimizer_options.h"
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
    OptimizerArguments optimizer;
    ObjectiveArguments objective;
    bool measure = false;
    std::string chip;
    std::string memory;
    std::string shares;
    std::string link, network;
    int ranks_a_machine = 8;
    int growth = 0;
};

void require_count(const char* flag, std::int64_t value, std::int64_t least) {
    constexpr std::int64_t most = 1'000'000;
    require_input(least <= value && value <= most, flag, " must be between ", least, " and ", most, ", not ", value);
}

llama::Config config_of_arguments(const PlanArguments& a) {
    require_input(int{!a.model.empty()} + int{!a.init.empty()} + int{!a.preset.empty()} == 1,
                  "give one of --model DIR, --init config.json and --preset NAME");
    if (!a.preset.empty()) return llama::preset(a.preset);
    return llama::read_config(a.model.empty() ? a.init : base_of(a.model));
}

TrainData rows_of(const PlanArguments& a, const llama::Config& config, std::int64_t rows) {
    constexpr std::int64_t most = 200'000'000;
    require_input(rows * a.length <= most, "--batch-size ", rows, " by --seq ", a.length, ": a step of ", most,
                  " tokens is the largest that is planned");
    return synthetic_data(config, rows, a.length, a.targets > 0 ? a.targets : a.length - 1);
}

PlanRequest request_of(const PlanArguments& a, const Common& common, const CLI::App& self) {
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
                     stays_mapped({r.config, {}, nullptr, base_of(a.model)}, r.dtype, r.device);
    if (a.recompute != "auto") r.recompute = llama::recompute_named(a.recompute);
    require_count("--ranks", a.ranks, 1);
    require_input(a.zero >= 0 && a.zero <= 3, "--zero must be 0, 1, 2 or 3, not ", a.zero);
    r.ranks = a.ranks;
    r.zero = a.zero;
    r.lora = a.lora.finished();
    if (!a.model.empty() && llama::is_adapter(a.model)) r.lora = llama::read_lora_config(a.model);
    r.trainer.epochs = 1;
    r.trainer.batch_size = a.batch_size;
    r.trainer.micro_batch = a.micro_batch;
    a.optimizer.apply(r.trainer.adamw);
    r.trainer.objective = a.objective.finished(self, *r.objective);
    require_count("--growth", a.growth, 0);
    require_input(a.growth <= 4096, "--growth: up to 4096 ranks");
    require_count("--ranks-a-machine", a.ranks_a_machine, 1);
    r.data = rows_of(a, r.config, a.batch_size);
    return r;
}

std::size_t memory_of(const PlanArguments& a, tensor::Device device) {
    if (!a.memory.empty()) return parse_size(a.memory, "--memory");
    if (!a.chip.empty()) return static_cast<std::size_t>(chip_named(a.chip).memory);
    return tensor::available_memory(device);
}

std::string size(std::size_t bytes) { return size_text(static_cast<double>(bytes)); }

Json memory_json(const Plan& plan) {
    Json out{{"peak", plan.memory.peak}, {"place", plan.memory.place_of_peak},
             {"mapped", plan.mapped},    {"outside", plan.outside},
             {"needed", plan.needed()},  {"host", plan.host}};
    for (std::size_t i = 0; i < tensor::num_memory_classes; ++i)
        out["classes"][tensor::name_of(static_cast<tensor::MemoryClass>(i))] = plan.memory.at_peak[i];
    return out;
}

void print_memory(const Plan& plan, int ranks) {
    const std::string& place = plan.memory.place_of_peak;
    std::printf("memory%s at the peak (%s)\n", ranks > 1 ? " of a rank" : "",
                place.empty() ? "loading" : place.c_str());
    const auto row = [](const char* name, std::size_t bytes) {
        std::printf("  %-24s %10s\n", name, size(bytes).c_str());
    };
    for (std::size_t i = 0; i < tensor::num_memory_classes; ++i)
        if (plan.memory.at_peak[i] > 0)
            row(tensor::name_of(static_cast<tensor::MemoryClass>(i)), plan.memory.at_peak[i]);
    row("tensors", plan.memory.peak);
    if (plan.mapped > 0) row("read from files", plan.mapped);
    row("beside tensors, about", plan.outside);
    row("all", plan.needed());
    if (plan.host > 0) row("and of the host's", plan.host);
}

std::string verdict(const Plan& plan, std::size_t memory, const std::optional<Fit>& other) {
    const std::string text = cat(size(plan.needed()), " of ", size(memory), ": ");
    if (plan.needed() <= memory) return text + "fits";
    if (!other) return text + "does not fit, nor with a smaller micro-batch, recompute, bf16, offload or LoRA";
    return cat(text, "does not fit; it does with ", other->flags, " (", size(other->plan.needed()), ")");
}

/// What a step is timed by: a chip's data sheet, or this machine as it is measured. No name: no time is predicted.
struct Basis {
    std::string name;
    const char* source = "";
    tensor::Roofs roofs;  // of a chip, or of all processors here
    Wires wires;
    bool shared = false;  // ranks share the processors

    /// Of one rank among so many.
    tensor::Roofs roofs_of(int ranks) const {
        const double share = shared ? std::min(ranks, wires.ranks_a_machine) : 1;
        return {roofs.flops / share, roofs.bytes / share};
    }
};

Basis basis_of(const PlanArguments& a, const Common& common) {
    Basis basis;
    if (!a.chip.empty()) {
        const Chip& chip = chip_named(a.chip);
        basis = {a.chip, "data sheet", chip.roofs(common.type()), {chip.link, chip.network}};
    } else if (a.measure) {
        constexpr double in_memory = 3e9;  // what two ranks of Open MPI on one machine were seen to send each other
        basis = {tensor::description(common.where()),
                 "measured",
                 tensor::measure_roofs(common.type(), common.where()),
                 {in_memory, in_memory},
                 common.where().kind == tensor::Device::Kind::cpu};
    }
    if (!a.link.empty()) basis.wires.link = static_cast<double>(parse_size(a.link, "--link"));
    if (!a.network.empty()) basis.wires.network = static_cast<double>(parse_size(a.network, "--network"));
    basis.wires.ranks_a_machine = a.ranks_a_machine;
    return basis;
}

/// A plan, and the time of its step.
struct Timed {
    Plan plan;
    int ranks = 1;
    PredictionOptions options;
    Prediction time;
    std::int64_t rows = 0;  // of the step

    /// Ranks that have rows to compute, and the share of all ranks' time that they do.
    std::int64_t rows_a_rank() const { return (rows + ranks - 1) / ranks; }
    std::int64_t busy() const { return (rows + rows_a_rank() - 1) / rows_a_rank(); }
    double load() const { return static_cast<double>(rows) / static_cast<double>(rows_a_rank() * ranks); }
    double tokens_per_second() const { return static_cast<double>(plan.tokens) / time.step; }
    double hidden() const { return time.communication - (time.step - time.compute); }
};

Timed timed(const PlanRequest& request, const PlanArguments& a, const Basis& basis) {
    Timed t{
        .plan = make_plan(request, basis.roofs_of(request.ranks)), .ranks = request.ranks, .options = {}, .time = {}};
    t.rows = request.trainer.batch_size;
    t.options.shares = parse_shares(a.shares);
    t.options.ranks = request.ranks;
    t.options.traffic = static_cast<double>(t.plan.traffic.total().bytes);
    t.options.calls = t.plan.calls;
    t.options.wires = basis.wires;
    if (!basis.name.empty()) t.time = predict(t.plan.work, t.options);
    return t;
}

Json time_json(const Timed& t) {
    Json out{{"tokens", t.plan.tokens},
             {"flops", t.plan.flops()},
             {"seconds", t.time.step},
             {"tok_per_s", t.tokens_per_second()}};
    out["ranks"] = {{"bytes", t.options.traffic}, {"calls", t.plan.calls}, {"seconds", t.time.communication}};
    for (std::size_t i = 0; i < t.plan.work.size(); ++i)
        out["families"][tensor::name_of(static_cast<tensor::Family>(i))] = {{"calls", t.plan.work[i].calls},
                                                                            {"flops", t.plan.work[i].work.flops},
                                                                            {"bytes", t.plan.work[i].work.bytes},
                                                                            {"seconds", t.time.seconds[i]}};
    return out;
}

void print_time(const Timed& t, const Basis& basis) {
    const Plan& plan = t.plan;
    const PredictionOptions& o = t.options;
    const tensor::Roofs roofs = basis.roofs_of(t.ranks);
    std::printf("a step of %lld tokens on %s%s: about %.3g s, %.0f tok/s, %.0f %% of %s FLOP/s\n",
                static_cast<long long>(plan.tokens), t.ranks > 1 ? cat(t.ranks, " ranks of ").c_str() : "",
                basis.name.c_str(), t.time.step, t.tokens_per_second(),
                100.0 * t.load() * plan.flops() / t.time.step / roofs.flops, t.ranks > 1 ? "their" : "its");
    std::printf("  %-14s %8s %12s %12s %10s %9s\n", t.ranks > 1 ? "a rank's" : "", "calls", "TFLOP", "GB moved",
                "of roof", "seconds");
    for (std::size_t i = 0; i < plan.work.size(); ++i)
        if (plan.work[i].calls > 0)
            std::printf("  %-14s %8lld %12.4g %12.4g %8.0f %% %9.3g\n", tensor::name_of(static_cast<tensor::Family>(i)),
                        static_cast<long long>(plan.work[i].calls), plan.work[i].work.flops * 1e-12,
                        plan.work[i].work.bytes * 1e-9, 100.0 * o.shares[i], t.time.seconds[i]);
    if (t.ranks > 1)
        std::printf("  %-14s %8lld %12s %12.4g %10s %9.3g, of which %.3g behind the backward pass\n", "between ranks",
                    static_cast<long long>(plan.calls), "", o.traffic * 1e-9, "", t.time.communication, t.hidden());
    std::printf(
        "  assumed: %.3g TFLOP/s and %.3g TB/s at most (%s), each family at its share (--shares), and %.0f us of "
        "the host's time an op\n",
        roofs.flops * 1e-12, roofs.bytes * 1e-12, basis.source, o.launch * 1e6);
    if (t.busy() < t.ranks)
        std::printf("  %lld of %d ranks have no row: a larger --batch-size would cost no time\n",
                    static_cast<long long>(t.ranks - t.busy()), t.ranks);
    if (plan.host > 0) std::printf("  not in it: the update on the host, and what goes there and back\n");
    if (t.ranks > 1)
        std::printf(
            "  assumed: %.3g GB/s between ranks of a machine of %d (--link, --ranks-a-machine), %.3g between machines "
            "(--network), %.0f us a hop; %.0f %% of the backward pass hides what is sent%s\n",
            o.wires.link * 1e-9, o.wires.ranks_a_machine, o.wires.network * 1e-9, o.wires.hop * 1e6, 100.0 * o.overlap,
            basis.shared ? "; ranks share this machine" : "");
}

/// The same run on 1, 2, 4, … ranks, each with as many rows as a rank has now.
std::vector<Timed> grown(const PlanRequest& request, const PlanArguments& a, const Basis& basis) {
    std::vector<Timed> out;
    const std::int64_t rows = std::max<std::int64_t>(1, a.batch_size / request.ranks);
    for (int ranks = 1; ranks <= a.growth; ranks *= 2) {
        PlanRequest r = request;
        r.ranks = ranks;
        r.trainer.batch_size = rows * ranks;
        r.trainer.micro_batch = a.micro_batch > 0 ? a.micro_batch : rows;
        r.data = rows_of(a, r.config, r.trainer.batch_size);
        out.push_back(timed(r, a, basis));
    }
    return out;
}

Json growth_json(const std::vector<Timed>& all) {
    Json out = Json::array();
    for (const Timed& t : all)
        out.push_back({{"ranks", t.ranks}, {"memory", memory_json(t.plan)}, {"step", time_json(t)}});
    return out;
}

void print_growth(const std::vector<Timed>& all) {
    std::printf(
        "on more ranks, each with as many rows (above 100 %%: a rank's share of the update shrinks)\n  %6s %12s %14s "
        "%14s %10s %12s %10s\n",
        "ranks", "memory", "GB exchanged", "seconds of it", "step, s", "tok/s", "efficiency");
    for (const Timed& t : all)
        std::printf("  %6d %12s %14.4g %14.3g %10.3g %12.0f %8.0f %%\n", t.ranks, size(t.plan.needed()).c_str(),
                    t.options.traffic * 1e-9, t.time.communication, t.time.step, t.tokens_per_second(),
                    100.0 * t.tokens_per_second() / t.ranks / all.front().tokens_per_second());
}

Json plan(const PlanArguments& a, const Common& common, const CLI::App& self) {
    require_input(!a.measure || a.chip.empty(), "--measure measures this machine; leave out --chip");
    PlanRequest request = request_of(a, common, self);
    const std::size_t memory = memory_of(a, request.device);
    const Basis basis = basis_of(a, common);
    require_input(a.growth == 0 || !basis.name.empty(),
                  "--growth needs --chip or --measure, to say how long steps take");
    if (a.recompute == "auto") request.recompute = least_recompute(request, memory);
    const Timed t = timed(request, a, basis);
    const bool fits = t.plan.needed() <= memory;
    const std::optional<Fit> other = fits ? std::nullopt : nearest_fit(request, memory);
    const std::vector<Timed> growth = grown(request, a, basis);
    Json out{{"parameters", llama::parameter_count(request.config)},
             {"recompute", llama::name_of(request.recompute)},
             {"memory", memory_json(t.plan)},
             {"available", memory},
             {"fits", fits}};
    if (other) out["fits_with"] = {{"flags", other->flags}, {"memory", memory_json(other->plan)}};
    if (!basis.name.empty()) out["step"] = time_json(t);
    if (!growth.empty()) out["growth"] = growth_json(growth);
    if (!prints_text(common)) return out;
    print_memory(t.plan, request.ranks);
    if (a.recompute == "auto") std::printf("recompute: %s\n", llama::name_of(request.recompute));
    std::printf("%s\n", verdict(t.plan, memory, other).c_str());
    if (!basis.name.empty()) print_time(t, basis);
    if (!growth.empty()) print_growth(growth);
    return out;
}

}  // namespace

void add_plan(CLI::App& app) {
    const auto a = std::make_shared<PlanArguments>();
    const auto common = std::make_shared<Common>();
    CLI::App* c = add_command(app, "plan", "Say what memory and time a run will take, before it begins", common,
                              [a, common](const CLI::App& self) { return plan(*a, *common, self); });
    c->add_option("--model", a->model, "Model folder; its weights are not read");
    c->add_option("--init", a->init, "config.json of a model");
    c->add_option("--preset", a->preset, "A well-known model: " + llama::preset_names());
    c->add_option("--method", a->method, "Unlearning by " + method_names() + "; without: fine-tuning");
    c->add_option("--batch-size", a->batch_size, "Rows an optimizer step");
    c->add_option("--micro-batch", a->micro_batch, "Rows a forward pass; 0: the batch");
    c->add_option("--seq", a->length, "Tokens of every row");
    c->add_option("--targets", a->targets, "Those of them that are learned, the last; 0: all but the first");
    c->add_option("--recompute", a->recompute,
                  "none, norm, mlp, block (alone) or auto, as uipe train --help says; without: norm")
        ->expected(0, 1)
        ->option_text("[TEXT]")
        ->default_str("block");
    c->add_option("--ranks", a->ranks, "Processes that share the run, each with memory of its own");
    c->add_option("--zero", a->zero, "What they keep once: 1 the optimizer's state, 2 also gradients, 3 also weights");
    add_lora_options(*c, a->lora);
    add_optimizer_options(*c, a->optimizer);
    add_objective_options(*c, a->objective);
    std::string names;
    for (const Chip& chip : chips()) names += (names.empty() ? "" : ", ") + std::string(chip.name);
    c->add_option("--chip", a->chip, "A GPU that need not be here: " + names + "; without: --device of this machine");
    c->add_flag("--measure", a->measure,
                "Measure what this machine can do at most, and say what a step will take on it");
    c->add_option("--memory", a->memory, "What there is, such as 80G; without: the chip's, or what is free here");
    c->add_option("--shares", a->shares, "Shares of the chip's roofs that ops reach, such as matmul=0.7,attention=0.5");
    c->add_option("--link", a->link,
                  "Bytes a second between two ranks of a machine, such as 450G; without: the chip's");
    c->add_option("--network", a->network, "The same of a machine to the others; without: what such machines have");
    c->add_option("--ranks-a-machine", a->ranks_a_machine, "Ranks that --link joins");
    c->add_option("--growth", a->growth, "Also say what 1, 2, 4, … up to so many ranks would do, rows a rank as here");
    c->footer(
        "Example: uipe plan --preset llama2-7b --dtype bf16 --method kl_min --micro-batch 2 --recompute --chip h200");
}

}  // namespace uipe::unlearn
