#include "unlearn/trainer.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "llama/logprobs.h"
#include "tensor/ops.h"
#include "tensor/profile.h"
#include "tensor/random.h"

namespace uipe::unlearn {
namespace {

/// What dropout draws by in a step.
std::uint64_t dropout_seed(std::uint64_t seed, std::int64_t step) {
    constexpr std::uint64_t stream = std::uint64_t{4} << 40;  // apart from those of dataset.cpp
    const auto bits = tensor::philox(seed, stream, static_cast<std::uint64_t>(step));
    return std::uint64_t{bits[1]} << 32 | bits[0];
}

double targets_of(const llama::Sequence& s) {
    return static_cast<double>(s.ids.size()) - static_cast<double>(s.first_target);
}

/// The last token is a target alone.
std::int64_t inputs_of(const llama::Sequence& s) { return static_cast<std::int64_t>(s.ids.size()) - 1; }

}  // namespace

Trainer::Trainer(llama::Llama& model, llama::Llama* reference, const Objective& objective, TrainData data,
                 const TrainerOptions& options, const Distribution& ranks)
    : model_(model),
      reference_(objective.reference_model ? reference : nullptr),
      objective_(objective),
      data_(std::move(data)),
      options_(options),
      ranks_(ranks) {
    require_input(!data_.rows.empty(), objective.unlearns ? "the forget set is empty" : "there is no training data");
    require_input(!objective.retain || !data_.retain.empty(), objective.title,
                  " needs retain rows; give --retain FILE");
    require_input(!objective.refusals || !data_.refusals.empty(), objective.title, " needs refusals; give --idk FILE");
    if (objective.layer) (void)rmu_layer(options_.objective, model.config());
    options_.objective.seed = options_.seed;
    require(!objective.reference_model || reference != nullptr, objective.title, " needs the initial model");
    if (options_.micro_batch <= 0) options_.micro_batch = options_.batch_size;
    const auto rows = static_cast<std::int64_t>(data_.rows.size());
    const auto wanted = static_cast<std::int64_t>(std::llround(options_.replay_ratio * static_cast<double>(rows)));
    rows_per_epoch_ = rows + std::min(wanted, static_cast<std::int64_t>(data_.replay.size()));
    steps_per_epoch_ = (rows_per_epoch_ + options_.batch_size - 1) / options_.batch_size;
    warmup_steps_ = std::llround(options_.warmup_epochs * static_cast<double>(steps_per_epoch_));
    if (ranks.shared()) {
        as_rank_ = ranks.comm->rank();
        zero_.emplace(model.units(), *ranks.comm, ranks.zero, ranks.dtype, ranks.device);
        model.observe(&*zero_);
        if (reference != nullptr && model.lora()) {
            reference->observe(&*zero_);  // its weights are the model's
        } else if (reference != nullptr) {
            reference_zero_.emplace(reference->units(), *ranks.comm, ranks.zero, ranks.dtype, ranks.device,
                                    tensor::MemoryClass::reference);
            reference->observe(&*reference_zero_);
        }
    }
    if (objective.reference_rows) {  // the model has not moved yet
        const tensor::Range range("reference rows");
        const autograd::NoGrad guard;
        const llama::Llama& initial = reference != nullptr ? *reference : model;
        std::optional<nn::Zero>& zero = reference_zero_ ? reference_zero_ : zero_;
        if (zero) zero->before_forward(initial.head_unit());
        reference_logp_ = row_logprobs(initial);
        if (zero) zero->release_all();
    }
    if (reference_ == nullptr) {
        if (reference != nullptr) reference->observe(nullptr);
        reference_zero_.reset();
    }
    fingerprint_ = fingerprint();
    parameters_ = zero_ ? zero_->slices() : model.trainable();
    nn::AdamWOptions adamw = options.adamw;
    adamw.seed = options.seed;
    optimizer_.emplace(parameters_, adamw);
}

Trainer::~Trainer() {
    model_.observe(nullptr);
    if (reference_ != nullptr) reference_->observe(nullptr);
}

std::vector<double> Trainer::row_logprobs(const llama::Llama& reference) const {
    std::vector<llama::Sequence> rows = data_.rows;
    if (objective_.refusals)
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(data_.rows.size()); ++i)
            for (std::int64_t epoch = 0; epoch < options_.epochs; ++epoch)  // which share a prompt, one after another
                rows.push_back(refusal_for(i, epoch));
    std::vector<double> out;
    for (const auto& logprobs : llama::token_logprobs(reference, rows))
        out.push_back(std::accumulate(logprobs.begin(), logprobs.end(), 0.0));
    return out;
}

const llama::Sequence& Trainer::row(std::int64_t index) const {
    const auto rows = static_cast<std::int64_t>(data_.rows.size());
    return index < rows ? data_.rows[static_cast<std::size_t>(index)]
                        : data_.replay[static_cast<std::size_t>(index - rows)];
}

const llama::Sequence& Trainer::retain_for(std::int64_t index, std::int64_t epoch) const {
    const auto n = static_cast<std::int64_t>(data_.retain.size());
    return data_.retain[static_cast<std::size_t>(paired_row(n, options_.seed, epoch, index))];
}

llama::Sequence Trainer::refusal_for(std::int64_t index, std::int64_t epoch) const {
    const auto n = static_cast<std::int64_t>(data_.refusals.size());
    const llama::Sequence& refusal =
        data_.refusals[static_cast<std::size_t>(paired_refusal(n, options_.seed, epoch, index))];
    llama::Sequence out = row(index);
    out.ids.resize(static_cast<std::size_t>(out.first_target));
    out.ids.insert(out.ids.end(), refusal.ids.begin() + refusal.first_target, refusal.ids.end());
    return out;
}

std::size_t Trainer::refusal_place(std::int64_t index, std::int64_t epoch) const {
    return data_.rows.size() + static_cast<std::size_t>(index * options_.epochs + epoch);
}

std::vector<std::int64_t> Trainer::order_of(std::int64_t epoch) const {
    const auto rows = static_cast<std::int64_t>(data_.rows.size());
    return epoch_order(rows, static_cast<std::int64_t>(data_.replay.size()), rows_per_epoch_ - rows, options_.shuffle,
                       options_.seed, epoch);
}

std::int64_t Trainer::num_ranks() const { return zero_ ? ranks_.comm->size() : 1; }

std::vector<std::pair<std::size_t, std::size_t>> Trainer::micro_batches(std::size_t begin, std::size_t end,
                                                                        std::int64_t rank) const {
    const auto rows = static_cast<std::size_t>(options_.micro_batch);
    const auto n = static_cast<std::size_t>(num_ranks());
    const std::size_t most = (end - begin + n - 1) / n;  // rows of a rank
    const std::size_t first = std::min(end, begin + static_cast<std::size_t>(rank) * most);
    const std::size_t last = std::min(end, first + most);
    std::vector<std::pair<std::size_t, std::size_t>> out;
    for (std::size_t done = 0; done < most; done += rows)
        out.emplace_back(std::min(last, first + done), std::min(last, first + done + rows));
    return out;
}

std::pair<std::size_t, std::size_t> Trainer::rows_of_step(std::int64_t index) const {
    const auto begin = static_cast<std::size_t>(index % steps_per_epoch_ * options_.batch_size);
    return {begin,
            std::min(begin + static_cast<std::size_t>(options_.batch_size), static_cast<std::size_t>(rows_per_epoch_))};
}

void Trainer::for_each_micro_batch(const std::function<void(const MicroBatchSize&)>& see) const {
    const bool all_retained = objective_.reference_model && !options_.objective.kl_on_answers;
    std::vector<std::int64_t> order;
    for (std::int64_t step = 0; step < total_steps(); ++step) {
        const std::int64_t epoch = step / steps_per_epoch_;
        if (step % steps_per_epoch_ == 0) order = order_of(epoch);
        const auto [begin, end] = rows_of_step(step);
        for (std::int64_t rank = 0; rank < num_ranks(); ++rank) {
            MicroBatchSize size{.step = step, .rank = rank};
            for (const auto& [from, to] : micro_batches(begin, end, rank)) {
                size.rows = size.head_rows = size.longest = 0;
                const auto add = [&size](const llama::Sequence& s, bool whole) {
                    size.rows += inputs_of(s);
                    size.head_rows += whole ? inputs_of(s) : static_cast<std::int64_t>(targets_of(s));
                    size.longest = std::max(size.longest, inputs_of(s));
                };
                for (std::size_t i = from; i < to; ++i) {
                    if (objective_.forget) add(row(order[i]), false);
                    if (objective_.refusals) add(refusal_for(order[i], epoch), false);
                    if (objective_.retain) add(retain_for(order[i], epoch), all_retained);
                }
                see(size);
                size.first = false;
            }
        }
    }
}

void Trainer::skip_to(std::int64_t step, std::int64_t rank) {
    require(flying_.empty(), "a step has been launched and not finished");
    optimizer_->set_steps(step);
    as_rank_ = rank;
}

MicroBatch Trainer::micro_batch(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                                std::int64_t epoch) const {
    std::vector<llama::Sequence> forget;
    std::vector<llama::Sequence> refusals;
    std::vector<llama::Sequence> retain;
    std::vector<double> forget_logp;
    std::vector<double> refusal_logp;
    const bool drops = model_.lora() && model_.lora()->dropout > 0;
    std::int32_t place = 0;
    const auto take = [&](const llama::Sequence& row, std::vector<llama::Sequence>& rows, bool here) {
        if (here) {
            rows.push_back(row);
            if (drops) rows.back().place = place;
        }
        place += static_cast<std::int32_t>(row.ids.size()) - 1;
    };
    // A row's place in its step, and with it what is dropped, does not depend on the cut.
    for (std::size_t i = begin - begin % static_cast<std::size_t>(options_.batch_size); i < end; ++i) {
        if (objective_.forget) take(row(order[i]), forget, i >= begin);
        if (objective_.retain) take(retain_for(order[i], epoch), retain, i >= begin);
        if (objective_.refusals) take(refusal_for(order[i], epoch), refusals, i >= begin);
        if (!objective_.reference_rows || i < begin) continue;
        forget_logp.push_back(reference_logp_[static_cast<std::size_t>(order[i])]);
        if (objective_.refusals) refusal_logp.push_back(reference_logp_[refusal_place(order[i], epoch)]);
    }
    MicroBatch batch = packed(forget, retain, refusals);
    const auto constant = [this](const std::vector<double>& values) {
        return Tensor::from(values).to(tensor::accumulator_of(model_.dtype())).to(model_.device());
    };
    if (!forget_logp.empty()) batch.forget_reference = constant(forget_logp);
    if (!refusal_logp.empty()) batch.refusal_reference = constant(refusal_logp);
    return batch;
}

StepTotals Trainer::totals(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                           std::int64_t epoch) const {
    StepTotals t;
    for (std::size_t i = begin; i < end; ++i) {
        t.forget_rows += 1.0;
        t.forget_targets += targets_of(row(order[i]));
        if (objective_.forget) t.tokens += inputs_of(row(order[i]));
        if (objective_.refusals) {
            const llama::Sequence refusal = refusal_for(order[i], epoch);
            t.tokens += inputs_of(refusal);
            t.refusal_targets += targets_of(refusal);
        }
        if (!objective_.retain) continue;
        const llama::Sequence& retain = retain_for(order[i], epoch);
        t.tokens += inputs_of(retain);
        t.retain_targets += targets_of(retain);
        t.retain_positions += static_cast<double>(inputs_of(retain));
    }
    return t;
}

StepInfo Trainer::run_step() {
    launch_step();
    return finish_step();
}

void Trainer::launch_step(bool stop) {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t index = launched();
    const std::int64_t epoch = index / steps_per_epoch_;
    if (order_epoch_ != epoch) order_ = order_of(epoch);
    order_epoch_ = epoch;
    const auto [begin, end] = rows_of_step(index);
    const StepTotals all = totals(order_, begin, end, epoch);
    Flying flying;
    flying.start = start;
    StepInfo& info = flying.info;
    info.steps = total_steps();
    info.step = index + 1;
    info.epoch = epoch + 1;
    info.lr = options_.lr * nn::schedule_factor(options_.schedule, index, warmup_steps_, info.steps);
    info.tokens = all.tokens;
    model_.set_dropout_seed(dropout_seed(options_.seed, index));
    const std::vector<Tensor> losses = backward(all, begin, end, epoch);
    const tensor::Range range("optimizer");
    const Tensor squares = zero_ ? zero_->reduced_squares() : nn::grad_squares(parameters_, model_.device());
    if (zero_) {
        const Tensor own = Tensor::from(std::vector<double>{0.0, stop ? 1.0 : 0.0}).to(ranks_.device);
        for (const Tensor& loss : losses) tensor::axpby(own.rows(0, 1), 1.0, loss, 1.0);
        const Tensor sums = zero_->sum_over_ranks(own);
        flying.losses.emplace_back(sums.rows(0, 1));
        flying.stop.emplace(sums.rows(1, 2));
    } else {
        for (const Tensor& loss : losses) flying.losses.emplace_back(loss);
        info.stop = stop;
    }
    flying.squares.emplace(squares);
    flying_.push_back(std::move(flying));
    optimizer_->step(info.lr, squares, options_.max_grad_norm);
    if (zero_) zero_->updated();
}

std::vector<Tensor> Trainer::backward(const StepTotals& all, std::size_t begin, std::size_t end, std::int64_t epoch) {
    const auto cut = micro_batches(begin, end, as_rank_);
    std::vector<Tensor> losses;
    for (std::size_t i = 0; i < cut.size(); ++i) {
        // A rank whose rows have ended computes one for nothing, since the others wait for it in every pass.
        const bool idle = cut[i].first == cut[i].second;
        const MicroBatch batch =
            micro_batch(order_, idle ? begin : cut[i].first, idle ? begin + 1 : cut[i].second, epoch);
        if (zero_) zero_->begin_micro_batch(i + 1 == cut.size());
        Variable loss;
        {
            const tensor::Range range("forward");
            loss = objective_.loss(Terms(model_, reference_, batch, all, options_.objective));
            if (idle) loss = autograd::scale(loss, 0.0);
        }
        losses.push_back(loss.value());
        const tensor::Range range("backward");
        autograd::backward(loss);
        if (zero_) zero_->end_micro_batch();
        if (reference_zero_) reference_zero_->end_micro_batch();
    }
    return losses;
}

StepInfo Trainer::finish_step() {
    require(!flying_.empty(), "no step has been launched");
    const Flying& flying = flying_.front();
    StepInfo info = flying.info;
    for (const tensor::Readback& loss : flying.losses) info.loss += loss.item();
    if (flying.stop) info.stop = flying.stop->item() > 0.0;
    info.grad_norm = std::sqrt(flying.squares->item());
    require(std::isfinite(info.loss) && std::isfinite(info.grad_norm), "step ", info.step, ": loss ", info.loss,
            ", gradient norm ", info.grad_norm, "; a smaller --lr, or --max-grad-norm 1, may keep them finite");
    const auto now = std::chrono::steady_clock::now();
    info.seconds = std::chrono::duration<double>(now - std::max(flying.start, finished_)).count();
    finished_ = now;
    loss_ = info.loss;
    flying_.pop_front();
    return info;
}

std::function<Tensor(const std::string&)> Trainer::masters() {
    const auto master = [this](const std::string& name) { return optimizer_->master(name); };
    return zero_ ? zero_->whole(master) : master;
}

void Trainer::gather_model(bool keep) {
    if (zero_) zero_->gather_all(keep);
}

void Trainer::release_model() {
    if (zero_) zero_->release_all();
}

std::string Trainer::fingerprint() {
    std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
    const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3U; };
    for (const auto* rows : {&data_.rows, &data_.replay, &data_.retain, &data_.refusals}) {
        if (rows == &data_.refusals && rows->empty()) continue;  // as of runs that know of none
        add(rows->size());
        for (const llama::Sequence& s : *rows) {
            add(static_cast<std::uint64_t>(s.first_target));
            for (const std::int32_t id : s.ids) add(static_cast<std::uint64_t>(id));
        }
    }
    const std::vector<nn::Parameters> units = (reference_ != nullptr ? *reference_ : model_).units();
    const auto add_unit = [&](std::size_t u) {
        for (const nn::Parameter& p : units[u]) {
            add(static_cast<std::uint64_t>(p.variable.value().numel()));
            if (reference_ != nullptr || !p.variable.requires_grad())
                add(std::bit_cast<std::uint64_t>(tensor::sum_of_squares(p.variable.value())));
        }
    };
    if (std::optional<nn::Zero>& zero = reference_zero_ ? reference_zero_ : zero_; zero)
        zero->visit(add_unit);
    else
        for (std::size_t u = 0; u < units.size(); ++u) add_unit(u);
    return std::to_string(hash);
}

void Trainer::save(const fs::path& folder) const {
    require(flying_.empty(), "a step has been launched and not finished; the state is not of one step");
    write_checkpoint(folder, optimizer_->state(),
                     Json{{"step", step()},
                          {"loss", loss_},
                          {"steps_per_epoch", steps_per_epoch_},
                          {"data", fingerprint_},
                          {"reference_logp", reference_logp_}},
                     ranks_.comm);
}

void Trainer::load(const Checkpoint& saved) {
    const fs::path& folder = saved.folder();
    const Json& state = saved.state();
    const bool ok = state.contains("step") && state["step"].is_number_unsigned() && state.contains("steps_per_epoch") &&
                    state["steps_per_epoch"].is_number_unsigned() && state.contains("data") &&
                    state.contains("reference_logp") && state["reference_logp"].is_array();
    require_input(ok, (folder / "state.json").string(),
                  ": needs the numbers \"step\" and \"steps_per_epoch\", \"data\" and \"reference_logp\"");
    require_input(state["steps_per_epoch"].get<std::int64_t>() == steps_per_epoch_, folder.string(),
                  ": was saved with ", state["steps_per_epoch"].dump(), " steps an epoch, this run has ",
                  steps_per_epoch_, "; resume with the same data and --batch-size");
    require_input(state["step"].get<std::uint64_t>() <= static_cast<std::uint64_t>(total_steps()), folder.string(),
                  ": was saved after step ", state["step"].dump(), ", this run has ", total_steps(),
                  "; resume with the same --epochs");
    saved.require_holds(optimizer_->state());
    std::vector<double> logp;
    for (const Json& value : state["reference_logp"])
        if (value.is_number()) logp.push_back(value.get<double>());
    bool same = state["data"] == fingerprint_ && logp.size() == reference_logp_.size();
    // Another number of ranks or threads may round the model's numbers otherwise; the run goes on with those it began
    // with.
    for (std::size_t i = 0; same && i < logp.size(); ++i)
        same = std::abs(logp[i] - reference_logp_[i]) <= 1e-2 * std::max(1.0, std::abs(logp[i]));
    require_input(same, folder.string(),
                  ": was saved with other data or another starting model; resume with the same files");
    gather_model(false);  // what is still sent of the weights must not change
    release_model();
    optimizer_->load_state([&saved](const std::string& name, const Tensor& like) { return saved.read(name, like); },
                           state["step"].get<std::int64_t>());
    reference_logp_ = logp;
    if (state.contains("loss") && state["loss"].is_number()) loss_ = state["loss"].get<double>();
    for (const nn::Parameter& p : parameters_) p.variable.clear_grad();
    if (zero_) zero_->updated();
}

}  // namespace uipe::unlearn
