#include "unlearn/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <deque>
#include <set>

#include "llama/config.h"
#include "tensor/comm/nccl/nccl_comm.h"

namespace uipe::unlearn {
namespace {

using tensor::MemoryClass;
using tensor::MemoryScope;
using tensor::Tensor;

llama::StateDict planned_weights(const PlanRequest& request, tensor::Device device, MemoryClass c, bool mapped) {
    const MemoryScope scope(c);
    llama::StateDict weights;
    for (const auto& [name, shape] : llama::expected_weights(request.config))
        weights[name] =
            mapped ? Tensor::uncounted(shape, request.dtype, device) : Tensor::empty(shape, request.dtype, device);
    return weights;
}

llama::Adapter planned_adapter(const PlanRequest& request, tensor::Device device) {
    llama::Adapter out{request.lora, {}};
    for (const auto& [name, shape] : llama::expected_adapter(request.config, request.lora))
        out.weights[name] = Tensor::uncounted(shape, request.dtype, device);
    return out;
}

std::size_t bytes_of(const llama::StateDict& weights) {
    std::size_t bytes = 0;
    for (const auto& [name, w] : weights) bytes += w.nbytes();
    return bytes;
}

/// What a process takes beside its tensors. CPU: the program, its libraries and their scratch memory, 100 MB, and 3 per
/// cent between blocks of memory. GPU: CUDA's context and the products' workspace, 600 MB, as much between blocks, and
/// among ranks NCCL's channels, 400 MB.
std::size_t outside(std::size_t peak, tensor::Device device, int ranks) {
    const double fixed = device.kind == tensor::Device::Kind::cpu ? 1e8 : ranks > 1 ? 1e9 : 6e8;
    return static_cast<std::size_t>(fixed + 0.03 * static_cast<double>(peak));
}

/// The steps, and ranks of them, in which the peak can lie. Memory grows with the rows of tokens, with those of the
/// head, and with the longest sequence, and a micro-batch that is not its step's first meets gradients that are there
/// already: the largest by each of these, and by two weighted sums, one of which is near what they cost.
std::set<std::pair<std::int64_t, std::int64_t>> largest_steps(const Trainer& trainer, const llama::Config& c) {
    constexpr std::size_t measures = 5;
    std::array<std::array<double, measures>, 2> most{};
    std::array<std::array<std::pair<std::int64_t, std::int64_t>, measures>, 2> step{};
    const auto width = static_cast<double>(c.num_layers * c.hidden_size);
    trainer.for_each_micro_batch([&](const MicroBatchSize& size) {
        const auto rows = static_cast<double>(size.rows);
        const double logits = static_cast<double>(size.head_rows) * static_cast<double>(c.vocab_size);
        const std::array<double, measures> found{rows, logits, static_cast<double>(size.longest), rows * width + logits,
                                                 rows * 15.0 * width + logits};
        for (std::size_t i = 0; i < measures; ++i) {
            if (found[i] <= most[size.first][i]) continue;
            most[size.first][i] = found[i];
            step[size.first][i] = {size.step, size.rank};
        }
    });
    std::set<std::pair<std::int64_t, std::int64_t>> steps;
    for (std::size_t i = 0; i < measures; ++i)
        for (const std::size_t first : {0, 1})
            if (most[first][i] > 0) steps.insert(step[first][i]);
    return steps;
}

/// While one lives, ops' work is added up.
class Profiled {
public:
    explicit Profiled(const tensor::Roofs& roofs) {
        (void)tensor::take_profile();
        tensor::set_profiling(true, roofs);
    }
    ~Profiled() { tensor::set_profiling(false); }
    Profiled(const Profiled&) = delete;
    Profiled& operator=(const Profiled&) = delete;
};

}  // namespace

double Plan::flops() const {
    double sum = 0;
    for (const tensor::FamilyTime& family : work) sum += family.work.flops;
    return sum;
}

namespace {

/// Rank 0 of several that are not there: nothing is moved, all is counted.
class PlannedRanks final : public tensor::Comm {
public:
    PlannedRanks(int size, bool staging, tensor::Device device) : size_(size) {
        const MemoryScope scope(MemoryClass::workspace);
        if (staging)
            staging_ = Tensor::empty({static_cast<std::int64_t>(tensor::nccl_staging / sizeof(float))},
                                     tensor::DType::f32, device);
    }
    int rank() const override { return 0; }
    int size() const override { return size_; }
    void wait(tensor::Ticket ticket) override {
        while (!held_.empty() && held_.front().first <= ticket) held_.pop_front();
    }
    void barrier() override {}
    std::vector<std::string> gather(const std::string& bytes) override {
        return std::vector<std::string>(static_cast<std::size_t>(size_), bytes);
    }

    std::int64_t calls = 0;

private:
    void start(tensor::Ticket ticket, const Call& call) override {
        calls += call.kind == Kind::all_reduce ? 2 : 1;  // it is a sum to shares, and a gathering
        held_.emplace_back(ticket, call);
    }
    int size_;
    Tensor staging_;
    std::deque<std::pair<tensor::Ticket, Call>> held_;  // as ranks hold what they exchange
};

/// The model that is trained, and the reference of objectives that read one, as a run lays them out.
struct PlannedModels {
    std::unique_ptr<llama::Llama> model, reference;
    std::size_t mapped = 0;  // bytes that every step reads from files

    PlannedModels(const PlanRequest& r, tensor::Device device) {
        const bool lora = r.lora.rank > 0;
        const bool shared = r.ranks > 1;
        // Ranks lay out anew, from files, what they train and, at stage 3, what lies below an adapter too, which else
        // is read where it is or brought to the device.
        const bool laid_out = shared && (!lora || r.zero == 3);
        const bool in_files = lora && r.maps_weights && !laid_out;
        const llama::StateDict weights = planned_weights(r, device, MemoryClass::weights, laid_out || in_files);
        model = std::make_unique<llama::Llama>(r.config, weights);
        model->set_recompute(r.recompute);
        if (in_files) mapped += bytes_of(weights);
        if (lora) {
            const MemoryScope scope(MemoryClass::weights);
            model->set_adapter(planned_adapter(r, device));
            if (r.objective->reference_model || r.objective->reference_rows)
                reference = std::make_unique<llama::Llama>(model->reference());
        } else if (r.objective->reference_model) {
            const llama::StateDict weights_0 =
                planned_weights(r, device, MemoryClass::reference, shared || r.maps_weights);
            reference = std::make_unique<llama::Llama>(r.config, weights_0);
            if (!shared && r.maps_weights) mapped += bytes_of(weights_0);
        }
    }
};

}  // namespace

Plan make_plan(const PlanRequest& request, const tensor::Roofs& roofs) {
    const tensor::Device device = tensor::meta(request.device);
    require(tensor::memory_stats(device).in_use == 0, "two plans at once");
    std::optional<tensor::HostInPlan> host;
    if (request.device.kind == tensor::Device::Kind::cpu) host.emplace();
    tensor::reset_peak(device);
    tensor::reset_peak(tensor::host_of(device));
    Plan plan;
    {
        const PlannedModels models(request, device);
        plan.mapped = models.mapped;
        const bool on_gpus = request.device.kind == tensor::Device::Kind::cuda;
        PlannedRanks ranks(request.ranks, on_gpus && request.fixed_order && request.ranks > 2, device);
        Trainer trainer(*models.model, models.reference.get(), *request.objective, request.data, request.trainer,
                        {&ranks, request.zero, request.dtype, device});
        for (const auto& [step, rank] : largest_steps(trainer, request.config)) {
            const Profiled profiled(roofs);
            trainer.skip_to(step, rank);
            ranks.reset_traffic();
            ranks.calls = 0;
            const StepInfo info = trainer.run_step();
            const tensor::Profile work = tensor::take_profile();
            if (info.tokens <= plan.tokens) continue;
            plan.tokens = info.tokens;
            plan.work = work;
            plan.traffic = ranks.traffic();
            plan.calls = ranks.calls;
        }
        plan.memory = tensor::memory_stats(device);
        if (request.trainer.adamw.offload) plan.host = tensor::memory_stats(tensor::host_of(device)).peak;
    }
    plan.outside = outside(plan.memory.peak, request.device, request.ranks);
    return plan;
}

TrainData synthetic_data(const llama::Config& config, std::int64_t rows, std::int64_t length, std::int64_t targets) {
    TrainData data;
    for (auto* part : {&data.rows, &data.retain})
        for (std::int64_t r = 0; r < rows; ++r) {
            llama::Sequence s;
            s.first_target = length - targets;
            for (std::int64_t i = 0; i < length;
                 ++i)  // no two rows begin alike, or a pass without gradients shares them
                s.ids.push_back(static_cast<std::int32_t>((r + i * 31) % config.vocab_size));
            part->push_back(std::move(s));
        }
    data.refusals.push_back({std::vector<std::int32_t>(25), 1});  // a sentence
    return data;
}

namespace {

constexpr std::array all_recompute{llama::Recompute::none, llama::Recompute::norm, llama::Recompute::mlp,
                                   llama::Recompute::block};

std::string flag_of(llama::Recompute what) {
    if (what == llama::Recompute::block) return " --recompute";
    return cat(" --recompute ", llama::name_of(what));
}

/// What a run can do to need less.
struct Settings {
    llama::Recompute recompute;
    int zero;
    tensor::DType dtype, moments;
    bool offload;
    std::int64_t lora_rank;
    std::int64_t micro_batch;

    explicit Settings(const PlanRequest& r)
        : recompute(r.recompute),
          zero(r.zero),
          dtype(r.dtype),
          moments(r.trainer.adamw.moments),
          offload(r.trainer.adamw.offload),
          lora_rank(r.lora.rank),
          micro_batch(r.trainer.micro_batch > 0 ? r.trainer.micro_batch : r.trainer.batch_size) {}

    void apply(PlanRequest& r) const {
        r.recompute = recompute;
        r.zero = zero;
        r.dtype = dtype;
        r.trainer.adamw.moments = moments;
        r.trainer.adamw.offload = offload;
        r.trainer.micro_batch = micro_batch;
        if (r.lora.rank == lora_rank) return;
        r.lora.rank = lora_rank;
        r.lora.alpha = 2.0 * static_cast<double>(lora_rank);
    }
    std::string flags(const Settings& from) const {
        std::string text;
        if (lora_rank != from.lora_rank) text += cat(" --lora-rank ", lora_rank);
        if (dtype != from.dtype) text += cat(" --dtype ", tensor::name_of(dtype));
        if (moments != from.moments) text += cat(" --moments ", tensor::name_of(moments));
        if (offload != from.offload) text += " --offload optimizer";
        if (zero != from.zero) text += cat(" --zero ", zero);
        if (micro_batch != from.micro_batch) text += cat(" --micro-batch ", micro_batch);
        if (recompute != from.recompute) text += flag_of(recompute);
        return text.empty() ? text : text.substr(1);
    }
};

/// As the request is, and what changes no result but memory and time; then the same with weights in bf16, with moments
/// in bf16, and with an adapter alone trained.
std::vector<Settings> settings_to_try(const PlanRequest& r) {
    const Settings now(r);
    std::vector<Settings> out;
    const auto add = [&](Settings s) {
        for (s.zero = now.zero; s.zero <= (r.ranks > 1 ? 3 : now.zero); ++s.zero)
            for (const llama::Recompute what : all_recompute)
                if (what >= now.recompute) {
                    s.recompute = what;
                    out.push_back(s);
                }
    };
    const auto add_here_and_on_the_host = [&](Settings s) {
        add(s);
        if (s.offload || r.device.kind != tensor::Device::Kind::cuda) return;
        s.offload = true;
        add(s);
    };
    Settings s = now;
    add_here_and_on_the_host(s);
    if (s.dtype != tensor::DType::bf16) {
        s.dtype = tensor::DType::bf16;
        add_here_and_on_the_host(s);
    }
    if (s.moments != tensor::DType::bf16) {
        s.moments = tensor::DType::bf16;
        add_here_and_on_the_host(s);
    }
    s = now;
    if (s.lora_rank == 0 && r.may_adapt) {
        s.lora_rank = 4;
        add(s);
        s.dtype = tensor::DType::bf16;
        add(s);
    }
    return out;
}

}  // namespace

std::optional<Fit> nearest_fit(const PlanRequest& request, std::size_t memory) {
    const Settings now(request);
    PlanRequest changed = request;
    const auto planned = [&](const Settings& s) {
        s.apply(changed);
        return Fit{s.flags(now), make_plan(changed)};
    };
    for (Settings s : settings_to_try(request)) {
        Settings least = s;
        least.micro_batch = 1;
        if (planned(least).plan.needed() > memory) continue;
        for (;; s.micro_batch /= 2) {
            Fit fit = planned(s);
            if (fit.plan.needed() <= memory || s.micro_batch == 1) return fit;
        }
    }
    return {};
}

llama::Recompute least_recompute(PlanRequest request, std::size_t memory) {
    for (const llama::Recompute what : all_recompute) {
        request.recompute = what;
        if (make_plan(request).needed() <= memory) return what;
    }
    return llama::Recompute::block;
}

void check_fits(const Plan& plan, const PlanRequest& request, std::size_t memory) {
    if (plan.needed() <= memory) return;
    const std::optional<Fit> fit = nearest_fit(request, memory);
    const std::string cure =
        fit ? cat("it fits with ", fit->flags, " (", size_text(static_cast<double>(fit->plan.needed())), ")")
        : plan.outside > memory
            ? std::string("that is less than a process takes beside its tensors")
            : cat("no --micro-batch, --recompute, --zero, --offload, --dtype bf16, --moments bf16 or --lora-rank ",
                  "makes it fit; more ranks (mpirun -n) with --zero 3 may");
    throw InputError(cat("this run needs ", size_text(static_cast<double>(plan.needed())), " of memory ",
                         request.ranks > 1 ? "a rank (" : "(", parts_text(plan), ") and there are ",
                         size_text(static_cast<double>(memory)), "; ", cure));
}

std::string size_text(double bytes) {
    char text[32];
    if (bytes >= 1e12)
        std::snprintf(text, sizeof text, "%.2f TB", bytes * 1e-12);
    else if (bytes >= 1e9)
        std::snprintf(text, sizeof text, bytes >= 1e10 ? "%.1f GB" : "%.2f GB", bytes * 1e-9);
    else
        std::snprintf(text, sizeof text, bytes >= 1e7 ? "%.0f MB" : "%.2f MB", bytes * 1e-6);
    return text;
}

std::size_t parse_size(const std::string& text, const char* flag) {
    static const std::vector<std::pair<std::string, double>> units{
        {"", 1.0},      {"K", 1e3},      {"KB", 1e3},    {"Ki", 0x1p10}, {"KiB", 0x1p10}, {"B", 1.0},
        {"M", 1e6},     {"MB", 1e6},     {"G", 1e9},     {"GB", 1e9},    {"T", 1e12},     {"TB", 1e12},
        {"Mi", 0x1p20}, {"MiB", 0x1p20}, {"Gi", 0x1p30}, {"GiB", 0x1p30}};
    std::size_t end = 0;
    double number = -1;
    try {
        number = std::stod(text, &end);
    } catch (const std::exception&) {  // no number
    }
    for (const auto& [unit, factor] : units)
        if (end > 0 && text.substr(end) == unit && number * factor >= 1 && number * factor < 1e18)
            return static_cast<std::size_t>(number * factor);
    throw InputError(cat(flag, " ", text, ": give a size such as 80G (10^9 bytes), 24GiB or 512M"));
}

std::string parts_text(const Plan& plan) {
    std::vector<std::pair<std::size_t, std::string>> parts;
    for (std::size_t i = 0; i < tensor::num_memory_classes; ++i)
        parts.emplace_back(plan.memory.at_peak[i], tensor::name_of(static_cast<MemoryClass>(i)));
    parts.emplace_back(plan.mapped, "read from files");
    std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::string text;
    for (const auto& [bytes, name] : parts)
        if (bytes > 0) text += cat(name, " ", size_text(static_cast<double>(bytes)), ", ");
    return text + cat("about ", size_text(static_cast<double>(plan.outside)), " beside tensors");
}

}  // namespace uipe::unlearn
