#include "unlearn/training.h"

#include <algorithm>
#include <optional>

#include "llama/weights.h"
#include "tensor/available_memory.h"
#include "tensor/base/json.h"
#include "tensor/comm/launch.h"
#include "tensor/ops.h"
#include "unlearn/plan.h"
#include "unlearn/profiling.h"
#include "unlearn/progress.h"
#include "unlearn/run_folder.h"
#include "unlearn/selection.h"
#include "unlearn/stop_signals.h"

namespace uipe::unlearn {
namespace {

std::vector<llama::Sequence> read_all(const std::vector<fs::path>& files, const llama::Tokenizer& tokenizer,
                                      const TrainingJob& job) {
    std::vector<llama::Sequence> out;
    for (const fs::path& file : files) {
        auto rows = read_sequences(file, tokenizer, llama::prompt_template(job.form), job.max_length);
        out.insert(out.end(), std::make_move_iterator(rows.begin()), std::make_move_iterator(rows.end()));
    }
    return out;
}

/// The starting model's config and tokenizer.
LoadedModel opened_model(const TrainingJob& job) {
    if (!job.model.empty()) return open_model(job.model, job.base);
    LoadedModel out{llama::read_config(job.init), llama::Tokenizer::load(job.tokenizer), nullptr, {}};
    llama::check_tokenizer(out.tokenizer, out.config);
    return out;
}

/// The adapter that the job asks for: a fresh one, or that of the model, which must be what the job says of it, dropout
/// aside.
llama::Adapter wanted_adapter(const TrainingJob& job, const LoadedModel& loaded) {
    if (loaded.adapter.empty()) {
        llama::LoraConfig lora = job.lora;
        lora.base = fs::absolute(loaded.folder).lexically_normal().string();
        return llama::fresh_adapter(loaded.config, lora, job.trainer.seed);
    }
    llama::Adapter adapter = loaded.model->adapter();
    const llama::LoraConfig& is = adapter.config;
    require_input(
        is.rank == job.lora.rank && is.targets == job.lora.targets && is.scale() == job.lora.scale(),
        job.model.string(), ": is an adapter of another rank, alpha or other targets (uipe inspect shows ",
        "them); without --lora-rank or --preset it is trained on as it is, and uipe merge makes way for a new one");
    adapter.config.dropout = job.lora.dropout;
    return adapter;
}

/// Loads the weights. Ranks that share the work lay out all that they train, from where the files are mapped.
void load_start(LoadedModel& opened, const TrainingJob& job, bool alone) {
    const tensor::MemoryScope scope(tensor::MemoryClass::weights);
    if (job.model.empty()) {
        tensor::check_device(job.device, job.dtype, opened.config.head_dim);
        opened.model = std::make_unique<llama::Llama>(
            opened.config, llama::random_weights(opened.config, job.dtype, job.trainer.seed, job.device));
        return;
    }
    const bool lora = job.lora.rank > 0 || !opened.adapter.empty();
    load_into(opened, job.dtype, job.device, !alone ? Weights::as_stored : lora ? Weights::shared : Weights::own);
    if (job.lora.rank > 0) opened.model->set_adapter(wanted_adapter(job, opened), job.dtype, job.device);
}

/// Throws InputError when --overwrite would remove what the run reads.
void check_overwrite(const TrainingJob& job, const LoadedModel& start) {
    if (!job.overwrite) return;
    std::vector<fs::path> inputs{job.model,    job.init, job.tokenizer, job.evaluation.tofu, job.evaluation.retain_log,
                                 start.folder, job.idk};
    for (const auto* files : {&job.data, &job.replay, &job.retain})
        inputs.insert(inputs.end(), files->begin(), files->end());
    const fs::path out = fs::weakly_canonical(job.out);
    for (const fs::path& input : inputs) {
        if (input.empty()) continue;
        const fs::path path = fs::weakly_canonical(input);
        const bool inside = std::mismatch(out.begin(), out.end(), path.begin(), path.end()).first == out.end();
        require_input(!inside, job.out.string(), ": --overwrite would remove ", input.string(),
                      ", which this run reads; choose another --out");
    }
}

class Run {
public:
    Run(const TrainingJob& job, const std::string& config)
        : job_(job), comm_(tensor::world(job.device, job.fixed_order)), start_(opened_model(job)) {
        check_overwrite(job, start_);
        if (!job.evaluation.tofu.empty()) evaluation_.emplace(job.evaluation);
        TrainData data = read_data();
        const llama::Recompute recompute = check_memory(data);
        load_start(start_, job, comm_->size() == 1);
        start_.model->set_recompute(recompute);
        make_trainer(std::move(data));
        folder_.emplace(job.out, config, job.resume, job.overwrite, main());  // last: bad input leaves no folder behind
        comm_->barrier();
    }

    TrainingResult go() {
        const StopSignals signals;
        const std::string ranks = comm_->size() > 1 ? cat(", ", comm_->size(), " ranks, ZeRO stage ", job_.zero) : "";
        say(tensor::description(job_.device) + ranks);
        say(memory_);
        resume();
        const bool begins = job_.objective->unlearns && evaluation_;
        if (begins && decided(!fs::exists(folder_->epoch(0) / "TOFU_SUMMARY.json"))) finish_epoch(0);
        if (job_.trainer.warmup_epochs >= static_cast<double>(job_.trainer.epochs))
            say("note: every step is warm-up, and the first has rate 0; a smaller --warmup-epochs or more epochs move "
                "more");
        if (trainer_->step() < trainer_->total_steps()) take_steps();
        result_.step = trainer_->step();
        result_.steps = trainer_->total_steps();
        result_.loss = trainer_->loss();
        if (result_.step == result_.steps) finish();
        return result_;
    }

private:
    bool main() const { return comm_->rank() == 0; }
    /// What rank 0 says: the folder may change before another looks.
    bool decided(bool mine) const { return comm_->gather(mine ? "yes" : "no").front() == "yes"; }

    void take_steps() {
        first_ = trainer_->step();
        Progress progress(job_.out.string(), static_cast<double>(trainer_->total_steps()), static_cast<double>(first_));
        const bool queues = job_.device.kind == tensor::Device::Kind::cuda;
        for (bool going = true; going;) {
            if (trainer_->launched() == trainer_->step()) {
                profile_from_here();
                trainer_->launch_step(StopSignals::asked());
            }
            // The device has the next step to do while the host reads what this one gave.
            if (queues && !stop_seen_ && !pauses_after(trainer_->launched()))
                trainer_->launch_step(StopSignals::asked());
            const StepInfo info = trainer_->finish_step();
            stop_seen_ = stop_seen_ || info.stop;
            note(info, progress);
            if (trainer_->launched() == trainer_->step()) going = settle(info);
        }
        if (!profiling_) return;
        for (const std::string& line : profiling_->table()) say(line);
    }

    /// Whether something is to be done between step n and the next.
    bool pauses_after(std::int64_t n) const {
        return n == trainer_->total_steps() || n % trainer_->steps_per_epoch() == 0 || checkpoint_due(n) ||
               (job_.stop_after > 0 && n - first_ >= job_.stop_after) || n == profile_start() ||
               (job_.profile > 0 && n == profile_start() + job_.profile);
    }
    bool checkpoint_due(std::int64_t n) const { return job_.checkpoint_steps > 0 && n % job_.checkpoint_steps == 0; }

    /// A profile leaves out the first two steps, which take memory from the system, unless there are no others.
    std::int64_t profile_start() const {
        if (job_.profile < 0) return -1;
        const std::int64_t left = trainer_->total_steps() - first_;
        return first_ + ((job_.stop_after > 0 ? std::min(left, job_.stop_after) : left) > 2 ? 2 : 0);
    }

    void profile_from_here() {
        if (job_.profile < 0 || trainer_->step() < profile_start()) return;
        if (!profiling_) profiling_.emplace(job_.profile, job_.dtype, job_.device);
        if (!profiling_->wanted()) return;
        resumed_ = trainer_->step();
        profiling_->resume();
    }

    void note(const StepInfo& info, Progress& progress) {
        folder_->append(info);
        tokens_ += static_cast<double>(info.tokens);
        seconds_ += info.seconds;
        result_.tokens_per_second = tokens_ / seconds_;
        progress.update(static_cast<double>(info.step), figures(info));
    }

    /// What follows a step when no other is in flight: evaluation, checkpoints, stops. Whether the run goes on.
    bool settle(const StepInfo& info) {
        if (resumed_ >= 0) profiling_->pause(info.step - resumed_);
        resumed_ = -1;
        if (trainer_->at_epoch_end()) finish_epoch(info.epoch);
        const bool asked = stop_seen_ && info.step < info.steps;
        const bool stopping = asked || (job_.stop_after > 0 && info.step - first_ >= job_.stop_after);
        if (stopping || checkpoint_due(info.step) || trainer_->at_epoch_end()) {
            trainer_->save(folder_->checkpoint(info.step));
            folder_->drop_checkpoints(job_.keep);
        }
        if (asked) throw Stopped(cat("stopped at step ", info.step, " of ", info.steps));
        if (stopping && info.step < info.steps)
            say(cat(job_.out.string(), ": stopped after step ", info.step, " of ", info.steps,
                    "; the same command with --resume goes on"));
        return !stopping && info.step < info.steps;
    }

    TrainData read_data() const {
        TrainData data;
        data.rows = read_all(job_.data, start_.tokenizer, job_);
        data.replay = read_all(job_.replay, start_.tokenizer, job_);
        data.retain = read_all(job_.retain, start_.tokenizer, job_);
        if (job_.objective->refusals)
            data.refusals =
                read_refusals(job_.idk, start_.tokenizer, llama::prompt_template(job_.form), job_.max_length);
        return data;
    }

    bool lora() const { return job_.lora.rank > 0 || !start_.adapter.empty(); }
    bool needs_reference() const {
        return job_.objective->reference_model || (lora() && job_.objective->reference_rows);
    }

    /// Plans the run; refuses one that does not fit. What is computed again.
    llama::Recompute check_memory(const TrainData& data) {
        PlanRequest request{.config = start_.config,
                            .objective = job_.objective,
                            .dtype = job_.dtype,
                            .device = job_.device,
                            .maps_weights = !job_.model.empty() && stays_mapped(start_, job_.dtype, job_.device),
                            .recompute = job_.recompute.value_or(llama::Recompute::none),
                            .lora = job_.lora,
                            .ranks = comm_->size(),
                            .zero = job_.zero,
                            .fixed_order = job_.fixed_order,
                            .trainer = job_.trainer,
                            .data = data};
        if (!start_.adapter.empty()) request.lora = llama::read_lora_config(start_.adapter);
        request.may_adapt = !job_.model.empty();
        const std::size_t memory = memory_there();
        if (!job_.recompute) request.recompute = least_recompute(request, memory);
        const Plan plan = make_plan(request);
        check_fits(plan, request, memory);
        if (evaluation_) check_evaluation(plan, memory);
        if (plan.host > 0) check_host(plan.host);
        memory_ = cat("memory: ", size_text(static_cast<double>(plan.needed())), " of ",
                      size_text(static_cast<double>(memory)), ", ", parts_text(plan));
        if (plan.host > 0) memory_ += cat("; on the host ", size_text(static_cast<double>(plan.host)));
        if (!job_.recompute) memory_ += cat("; recompute ", llama::name_of(request.recompute));
        return request.recompute;
    }

    /// An evaluation reads the whole model on rank 0, beside what a rank keeps between steps.
    void check_evaluation(const Plan& plan, std::size_t memory) const {
        const auto kept = [&](tensor::MemoryClass c) { return plan.memory.at_peak[static_cast<std::size_t>(c)]; };
        const std::size_t whole =
            static_cast<std::size_t>(llama::parameter_count(start_.config)) * tensor::size_of(job_.dtype);
        const std::size_t needed = whole + kept(tensor::MemoryClass::masters) + kept(tensor::MemoryClass::moments) +
                                   kept(tensor::MemoryClass::reference) + plan.mapped + plan.outside;
        require_input(needed <= memory, "evaluating reads the whole model on rank 0, which takes ",
                      size_text(static_cast<double>(needed)), " and there are ", size_text(static_cast<double>(memory)),
                      "; --no-eval leaves it out (uipe eval can follow)");
    }

    /// Throws InputError unless the host has so many bytes for a rank.
    void check_host(std::size_t bytes) const {
        const std::size_t there = memory_of({});
        require_input(bytes <= there, "--offload optimizer needs ", size_text(static_cast<double>(bytes)),
                      " of the host's memory ", comm_->size() > 1 ? "a rank " : "", "and there are ",
                      size_text(static_cast<double>(there)), "; --moments bf16 needs less, and among ranks --zero 1");
    }

    std::size_t memory_there() const {
        return job_.memory.empty() ? memory_of(job_.device) : parse_size(job_.memory, "--memory");
    }
    /// For a rank: what the one with the least has. Ranks on the processors of one machine share its memory.
    std::size_t memory_of(tensor::Device device) const {
        std::size_t bytes = tensor::available_memory(device);
        if (device.kind == tensor::Device::Kind::cpu) bytes /= static_cast<std::size_t>(tensor::launched().local_ranks);
        for (const std::string& other : comm_->gather(std::to_string(bytes)))
            bytes = std::min<std::size_t>(bytes, std::stoull(other));
        return bytes;
    }

    void make_trainer(TrainData data) {
        const tensor::MemoryScope scope(tensor::MemoryClass::reference);
        if (needs_reference() && lora())
            reference_ = std::make_unique<llama::Llama>(start_.model->reference());
        else if (needs_reference())
            reference_ = load_model(job_.model, job_.dtype, job_.device,
                                    comm_->size() > 1 ? Weights::as_stored : Weights::shared)
                             .model;
        const tensor::MemoryScope own(tensor::MemoryClass::activations);
        const Distribution ranks{comm_.get(), job_.zero, job_.dtype, job_.device};
        trainer_.emplace(*start_.model, reference_.get(), *job_.objective, std::move(data), job_.trainer, ranks);
    }

    void resume() {
        const std::vector<std::int64_t> found = checkpoints_there();
        if (job_.resume && !found.empty()) {
            load_newest(found);
            comm_->barrier();
            folder_->drop_checkpoints_after(trainer_->step());  // damaged ones, which this run will overtake
            say(cat(job_.out.string(), ": going on after step ", trainer_->step(), " of ", trainer_->total_steps()));
        } else {
            const bool finished = job_.resume && fs::exists(job_.out / "finished.json");
            if (finished) folder_->drop_checkpoints(0);  // it was killed meanwhile
            require_input(!finished, job_.out.string(), ": this run has finished; there is nothing to resume",
                          job_.objective->unlearns
                              ? cat("; uipe extrapolate --unlearned ", job_.out.string(), " takes it further")
                              : "");
        }
        comm_->barrier();  // nobody writes before all have looked
        folder_->rewind_metrics(trainer_->step());
    }

    /// The steps of the run's checkpoints, as rank 0 sees them.
    std::vector<std::int64_t> checkpoints_there() const {
        Json steps = Json::array();
        for (const auto& [step, folder] : checkpoints_in(folder_->checkpoints())) steps.push_back(step);
        return parse_json(comm_->gather(steps.dump()).front(), "checkpoints").get<std::vector<std::int64_t>>();
    }

    /// The newest checkpoint that is whole.
    void load_newest(const std::vector<std::int64_t>& steps) {
        for (std::size_t i = steps.size(); i-- > 0;) {
            std::optional<Checkpoint> saved;
            try {
                saved.emplace(folder_->checkpoint(steps[i]), comm_.get());
            } catch (const InputError& e) {
                if (i == 0) throw;
                say(cat(e.what(), "; going on from the checkpoint before it"));
                continue;
            }
            trainer_->load(*saved);
            return;
        }
    }

    std::string figures(const StepInfo& info) const {
        char loss[32];
        std::snprintf(loss, sizeof loss, "%.4g", info.loss);
        return cat("epoch ", info.epoch, "/", job_.trainer.epochs, "  loss ", loss, "  ",
                   grouped(result_.tokens_per_second), " tok/s");
    }

    /// Evaluates and saves what the job asks for after epoch n (0: before the first step).
    void finish_epoch(std::int64_t n) {
        const bool last = n == job_.trainer.epochs;
        const bool evaluates = evaluation_ && (n == 0 || last || (job_.eval_every > 0 && n % job_.eval_every == 0));
        const bool saves = n > 0 && (job_.save_all || (last && job_.objective->unlearns));
        if (!evaluates && !saves) return;
        std::optional<eval::EvalLog> log;
        if (evaluates) trainer_->gather_model(main());
        if (evaluates && main()) {
            log = evaluation_->run(*start_.model, start_.tokenizer, cat(job_.out.string(), " evaluation ", n));
            const eval::Scores scores = evaluation_->score(*log);
            say(cat(job_.out.string(), " epoch ", n, ": ", score_line(scores)));
            result_.scores = {scores.begin(), scores.end()};
            note_candidate(n, scores);
        }
        if (evaluates) trainer_->release_model();
        if (main())
            write_folder(folder_->epoch(n), [&](const fs::path& temporary) {
                if (saves) write_to(temporary);
                if (log) evaluation_->write(temporary, *log);
            });
        else if (saves)
            write_to({});
        comm_->barrier();
        if (saves) result_.model = folder_->epoch(n) / kind();
    }

    /// What the run makes, and the name of its folder.
    const char* kind() const { return start_.model->lora() ? "adapter" : "model"; }

    /// Rank 0 writes what the run makes; the others hand it their parts.
    void write_to(const fs::path& folder) {
        const auto& lora = start_.model->lora();
        const auto master = trainer_->masters();
        llama::StateDict weights;
        for (const nn::Parameter& p : start_.model->trainable()) {
            const Tensor& w = p.variable.value();
            weights[p.name] = Tensor::shaped(w.shape(), tensor::accumulator_of(w.dtype()));
        }
        for (auto& [name, w] : weights) {
            if (main() && !lora) continue;      // written one by one below
            const Tensor whole = master(name);  // which all ranks take part in
            if (main()) w = whole.clone();
        }
        if (!main()) return;
        if (lora)
            llama::write_adapter(folder / kind(), {*lora, weights}, job_.save_dtype);
        else
            llama::write_model(folder / kind(), start_.config, weights, start_.tokenizer.file(), job_.save_dtype,
                               5'000'000'000, master);
    }

    void note_candidate(std::int64_t n, const eval::Scores& scores) {
        const auto utility = scores.find("model_utility");
        const auto quality = scores.find("forget_quality");
        if (utility == scores.end() || quality == scores.end()) return;
        if (n == 0) {
            starting_utility_ = utility->second;
        } else {
            std::erase_if(candidates_, [&](const Candidate& c) { return c.name == std::to_string(n); });
            candidates_.push_back({std::to_string(n), quality->second, utility->second});
        }
    }

    /// The candidates of epochs that an earlier call evaluated.
    void recall_candidates() {
        for (std::int64_t n = 0; n <= job_.trainer.epochs; ++n) {
            const fs::path file = folder_->epoch(n) / "TOFU_SUMMARY.json";
            const bool known = std::any_of(candidates_.begin(), candidates_.end(),
                                           [&](const Candidate& c) { return c.name == std::to_string(n); });
            if (known || !fs::exists(file)) continue;
            eval::Scores scores;
            const Json summary = read_json(file);
            for (const auto& [name, value] : summary.items())
                if (value.is_number()) scores[name] = value.get<double>();
            note_candidate(n, scores);
        }
        std::sort(candidates_.begin(), candidates_.end(),
                  [](const Candidate& a, const Candidate& b) { return std::stoll(a.name) < std::stoll(b.name); });
    }

    void finish() {
        if (!job_.objective->unlearns) {
            write_to(job_.out);
            result_.model = job_.out / kind();
        }
        if (!main()) return;
        if (job_.objective->unlearns) {
            recall_candidates();
            if (!candidates_.empty()) {
                const Selection s = select(candidates_, job_.utility_floor * starting_utility_);
                const Candidate& c = candidates_[s.index];
                write_json(job_.out / "selection.json", Json{{"epoch", std::stoll(c.name)},
                                                             {"reason", s.reason},
                                                             {"forget_quality", c.forget_quality},
                                                             {"model_utility", c.model_utility}});
                say(cat(job_.out.string(), ": selected epoch ", c.name, " (", s.reason, ")"));
            } else {
                say(cat(job_.out.string(),
                        ": no epoch is selected: that takes forget quality and model utility, so --tofu and "
                        "--retain-log, and neither --no-eval nor --forget-only"));
            }
        }
        write_json(job_.out / "finished.json", Json{{"steps", result_.steps}, {"loss", result_.loss}});
        folder_->drop_checkpoints(0);  // three times the model's size, and of no more use
    }

    const TrainingJob& job_;
    std::unique_ptr<tensor::Comm> comm_;
    LoadedModel start_;
    std::string memory_;  // the plan in a line
    std::unique_ptr<llama::Llama> reference_;
    std::optional<Trainer> trainer_;
    std::optional<RunFolder> folder_;
    std::optional<Evaluation> evaluation_;
    std::vector<Candidate> candidates_;
    double starting_utility_ = 0;
    bool stop_seen_ = false;  // a rank was asked to stop, and all know
    std::int64_t first_ = 0;  // steps before those of this call
    double tokens_ = 0, seconds_ = 0;
    std::optional<Profiling> profiling_;
    std::int64_t resumed_ = -1;  // the steps before those that the profile takes now
    TrainingResult result_;
};

}  // namespace

TrainingResult run_training(const TrainingJob& job, const std::string& config) { return Run(job, config).go(); }

}  // namespace uipe::unlearn
