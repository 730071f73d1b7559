#include "unlearn/trainer.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <numeric>

#include "llama/logprobs.h"
#include "tensor/base/json.h"
#include "tensor/ops.h"

namespace uipe::unlearn {
namespace {

double targets_of(const llama::Sequence& s) {
    return static_cast<double>(s.ids.size()) - static_cast<double>(s.first_target);
}

}  // namespace

Trainer::Trainer(llama::Llama& model, const llama::Llama* reference, const Objective& objective, TrainData data,
                 const TrainerOptions& options)
    : model_(model),
      reference_(objective.reference_model ? reference : nullptr),
      objective_(objective),
      data_(std::move(data)),
      options_(options),
      parameters_(model.parameters()),
      optimizer_(parameters_, options.adamw) {
    require_input(!data_.rows.empty(), objective.unlearns ? "the forget set is empty" : "there is no training data");
    require_input(!objective.retain || !data_.retain.empty(), objective.title,
                  " needs retain rows; give --retain FILE");
    require((!objective.reference_model && !objective.reference_rows) || reference != nullptr, objective.title,
            " needs the initial model");
    if (options_.micro_batch <= 0) options_.micro_batch = options_.batch_size;
    const auto rows = static_cast<std::int64_t>(data_.rows.size());
    const auto wanted = static_cast<std::int64_t>(std::llround(options_.replay_ratio * static_cast<double>(rows)));
    rows_per_epoch_ = rows + std::min(wanted, static_cast<std::int64_t>(data_.replay.size()));
    steps_per_epoch_ = (rows_per_epoch_ + options_.batch_size - 1) / options_.batch_size;
    warmup_steps_ = std::llround(options_.warmup_epochs * static_cast<double>(steps_per_epoch_));
    if (objective.reference_rows)
        for (const auto& logprobs : llama::token_logprobs(*reference, data_.rows))
            reference_logp_.push_back(std::accumulate(logprobs.begin(), logprobs.end(), 0.0));
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

MicroBatch Trainer::micro_batch(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                                std::int64_t epoch) const {
    std::vector<llama::Sequence> forget;
    std::vector<llama::Sequence> retain;
    std::vector<double> logp;
    for (std::size_t i = begin; i < end; ++i) {
        forget.push_back(row(order[i]));
        if (objective_.retain) retain.push_back(retain_for(order[i], epoch));
        if (objective_.reference_rows) logp.push_back(reference_logp_[static_cast<std::size_t>(order[i])]);
    }
    MicroBatch batch;
    batch.forget = llama::pack(forget);
    if (objective_.retain) batch.retain = llama::pack(retain);
    if (objective_.reference_rows)
        batch.reference_logp = Tensor::from(logp).to(tensor::accumulator_of(model_.dtype())).to(model_.device());
    return batch;
}

StepTotals Trainer::totals(const std::vector<std::int64_t>& order, std::size_t begin, std::size_t end,
                           std::int64_t epoch) const {
    StepTotals t;
    for (std::size_t i = begin; i < end; ++i) {
        t.forget_rows += 1.0;
        t.forget_targets += targets_of(row(order[i]));
        if (!objective_.retain) continue;
        const llama::Sequence& retain = retain_for(order[i], epoch);
        t.retain_targets += targets_of(retain);
        t.retain_positions += static_cast<double>(retain.ids.size()) - 1.0;
    }
    return t;
}

StepInfo Trainer::run_step() {
    launch_step();
    return finish_step();
}

void Trainer::launch_step() {
    const auto start = std::chrono::steady_clock::now();
    const std::int64_t index = launched();
    const std::int64_t epoch = index / steps_per_epoch_;
    if (order_epoch_ != epoch) {
        const auto rows = static_cast<std::int64_t>(data_.rows.size());
        order_ = epoch_order(rows, static_cast<std::int64_t>(data_.replay.size()), rows_per_epoch_ - rows,
                             options_.shuffle, options_.seed, epoch);
        order_epoch_ = epoch;
    }
    StepInfo info;
    info.steps = total_steps();
    info.step = index + 1;
    info.epoch = epoch + 1;
    info.lr = options_.lr * nn::schedule_factor(options_.schedule, index, warmup_steps_, info.steps);
    const auto begin = static_cast<std::size_t>(index % steps_per_epoch_ * options_.batch_size);
    const std::size_t end = std::min(begin + static_cast<std::size_t>(options_.batch_size), order_.size());
    const StepTotals all = totals(order_, begin, end, epoch);
    std::vector<tensor::Readback> losses;
    for (std::size_t at = begin; at < end; at += static_cast<std::size_t>(options_.micro_batch)) {
        const MicroBatch batch =
            micro_batch(order_, at, std::min(end, at + static_cast<std::size_t>(options_.micro_batch)), epoch);
        const Variable loss = objective_.loss(Terms(model_, reference_, batch, all, options_.objective));
        losses.emplace_back(loss.value());
        info.tokens += batch.forget.T + batch.retain.T;
        autograd::backward(loss);
    }
    const Tensor squares = nn::grad_squares(parameters_);
    flying_.push_back({info, std::move(losses), tensor::Readback(squares), start});
    optimizer_.step(info.lr, squares, options_.max_grad_norm);
}

StepInfo Trainer::finish_step() {
    require(!flying_.empty(), "no step has been launched");
    const Flying& flying = flying_.front();
    StepInfo info = flying.info;
    for (const tensor::Readback& loss : flying.losses) info.loss += loss.item();
    info.grad_norm = std::sqrt(flying.squares.item());
    require(std::isfinite(info.loss) && std::isfinite(info.grad_norm), "step ", info.step, ": loss ", info.loss,
            ", gradient norm ", info.grad_norm, "; a smaller --lr, or --max-grad-norm 1, may keep them finite");
    const auto now = std::chrono::steady_clock::now();
    info.seconds = std::chrono::duration<double>(now - std::max(flying.start, finished_)).count();
    finished_ = now;
    flying_.pop_front();
    return info;
}

std::string Trainer::fingerprint() const {
    std::uint64_t hash = 0xcbf29ce484222325U;  // FNV-1a
    const auto add = [&hash](std::uint64_t value) { hash = (hash ^ value) * 0x100000001b3U; };
    for (const auto* rows : {&data_.rows, &data_.replay, &data_.retain}) {
        add(rows->size());
        for (const llama::Sequence& s : *rows) {
            add(static_cast<std::uint64_t>(s.first_target));
            for (const std::int32_t id : s.ids) add(static_cast<std::uint64_t>(id));
        }
    }
    for (const double logp : reference_logp_) add(std::bit_cast<std::uint64_t>(logp));
    if (reference_ != nullptr)
        for (const auto& [name, w] : reference_->weights())
            add(std::bit_cast<std::uint64_t>(tensor::sum_of_squares(w)));
    return std::to_string(hash);
}

void Trainer::save(const fs::path& folder) const {
    require(flying_.empty(), "a step has been launched and not finished; the state is not of one step");
    write_folder(folder, [&](const fs::path& temporary) {
        llama::write_safetensors(temporary / "state.safetensors", optimizer_.state());
        write_json(temporary / "state.json",
                   Json{{"step", step()}, {"steps_per_epoch", steps_per_epoch_}, {"data", fingerprint()}});
    });
}

void Trainer::load(const fs::path& folder) {
    const Json state = read_json(folder / "state.json");
    const bool ok = state.is_object() && state.contains("step") && state["step"].is_number_unsigned() &&
                    state.contains("steps_per_epoch") && state["steps_per_epoch"].is_number_unsigned();
    require_input(ok, (folder / "state.json").string(), ": needs the numbers \"step\" and \"steps_per_epoch\"");
    require_input(state["steps_per_epoch"].get<std::int64_t>() == steps_per_epoch_, folder.string(),
                  ": was saved with ", state["steps_per_epoch"].dump(), " steps an epoch, this run has ",
                  steps_per_epoch_, "; resume with the same data and --batch-size");
    require_input(state["step"].get<std::uint64_t>() <= static_cast<std::uint64_t>(total_steps()), folder.string(),
                  ": was saved after step ", state["step"].dump(), ", this run has ", total_steps(),
                  "; resume with the same --epochs");
    require_input(state.contains("data") && state["data"] == fingerprint(), folder.string(),
                  ": was saved with other data or another starting model; resume with the same files");
    optimizer_.load_state(llama::read_safetensors(folder / "state.safetensors"), state["step"].get<std::int64_t>());
    for (const nn::Parameter& p : parameters_) p.variable.clear_grad();
}

}  // namespace uipe::unlearn
