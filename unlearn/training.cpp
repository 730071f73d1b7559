#include "unlearn/training.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <optional>

#include "llama/weights.h"
#include "tensor/base/json.h"
#include "tensor/ops.h"
#include "unlearn/profiling.h"
#include "unlearn/progress.h"
#include "unlearn/run_folder.h"
#include "unlearn/selection.h"

namespace uipe::unlearn {
namespace {

std::atomic<bool> stop_asked{false};

/// While one lives, SIGINT and SIGTERM ask for a stop at the next step instead of ending the process.
class StopSignals {
public:
    StopSignals() : interrupt_(std::signal(SIGINT, ask)), terminate_(std::signal(SIGTERM, ask)) { stop_asked = false; }
    ~StopSignals() {
        std::signal(SIGINT, interrupt_);
        std::signal(SIGTERM, terminate_);
    }
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;

private:
    static void ask(int signal) {
        stop_asked = true;
        std::signal(signal, SIG_DFL);  // a second one does not wait for the step or evaluation to end
    }
    void (*interrupt_)(int);
    void (*terminate_)(int);
};

std::vector<llama::Sequence> read_all(const std::vector<fs::path>& files, const llama::Tokenizer& tokenizer,
                                      const TrainingJob& job) {
    std::vector<llama::Sequence> out;
    for (const fs::path& file : files) {
        auto rows = read_sequences(file, tokenizer, llama::prompt_template(job.form), job.max_length);
        out.insert(out.end(), std::make_move_iterator(rows.begin()), std::make_move_iterator(rows.end()));
    }
    return out;
}

LoadedModel starting_model(const TrainingJob& job) {
    if (!job.model.empty()) return load_model(job.model, job.dtype, job.device, true);
    LoadedModel out{llama::read_config(job.init), llama::Tokenizer::load(job.tokenizer), nullptr, {}};
    llama::check_tokenizer(out.tokenizer, out.config);
    tensor::check_device(job.device, job.dtype, out.config.head_dim);
    out.model = std::make_unique<llama::Llama>(
        out.config, llama::random_weights(out.config, job.dtype, job.trainer.seed, job.device));
    return out;
}

/// Throws InputError when --overwrite would remove what the run reads.
void check_overwrite(const TrainingJob& job) {
    if (!job.overwrite) return;
    std::vector<fs::path> inputs{job.model, job.init, job.tokenizer, job.evaluation.tofu, job.evaluation.retain_log};
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
    Run(const TrainingJob& job, const std::string& config) : job_(job), start_(starting_model(job)) {
        check_overwrite(job);
        start_.model->set_recompute(job.recompute);
        if (!job.evaluation.tofu.empty()) evaluation_.emplace(job.evaluation);
        make_trainer();
        folder_.emplace(job.out, config, job.resume, job.overwrite);  // last: bad input leaves no folder behind
    }

    TrainingResult go() {
        const StopSignals signals;
        say(tensor::description(job_.device));
        resume();
        if (job_.objective->unlearns && evaluation_ && !fs::exists(folder_->epoch(0) / "TOFU_SUMMARY.json"))
            finish_epoch(0);
        if (job_.trainer.warmup_epochs >= static_cast<double>(job_.trainer.epochs))
            say("note: every step is warm-up, and the first has rate 0; a smaller --warmup-epochs or more epochs move "
                "more");
        if (trainer_->step() < trainer_->total_steps()) take_steps();
        result_.step = trainer_->step();
        result_.steps = trainer_->total_steps();
        if (result_.step == result_.steps) finish();
        return result_;
    }

private:
    void take_steps() {
        first_ = trainer_->step();
        Progress progress(job_.out.string(), static_cast<double>(trainer_->total_steps()), static_cast<double>(first_));
        const bool queues = job_.device.kind == tensor::Device::Kind::cuda;
        for (bool going = true; going;) {
            if (trainer_->launched() == trainer_->step()) {
                profile_from_here();
                trainer_->launch_step();
            }
            // The device has the next step to do while the host reads what this one gave.
            if (queues && !stop_asked && !pauses_after(trainer_->launched())) trainer_->launch_step();
            const StepInfo info = trainer_->finish_step();
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
        result_.loss = info.loss;
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
        const bool asked = stop_asked && info.step < info.steps;  // read once: it may change any time
        const bool stopping = asked || (job_.stop_after > 0 && info.step - first_ >= job_.stop_after);
        if (stopping || checkpoint_due(info.step) || trainer_->at_epoch_end()) trainer_->save(folder_->checkpoint());
        if (asked) throw Error(cat("stopped at step ", info.step, " of ", info.steps, "; go on with --resume"));
        if (stopping && info.step < info.steps)
            say(cat(job_.out.string(), ": stopped after step ", info.step, " of ", info.steps,
                    "; the same command with --resume goes on"));
        return !stopping && info.step < info.steps;
    }

    void make_trainer() {
        TrainData data;
        data.rows = read_all(job_.data, start_.tokenizer, job_);
        data.replay = read_all(job_.replay, start_.tokenizer, job_);
        data.retain = read_all(job_.retain, start_.tokenizer, job_);
        if (job_.objective->reference_model || job_.objective->reference_rows)
            reference_ = load_model(job_.model, job_.dtype, job_.device, false).model;
        trainer_.emplace(*start_.model, reference_.get(), *job_.objective, std::move(data), job_.trainer);
        if (!job_.objective->reference_model) reference_.reset();  // its numbers per row have been computed
    }

    void resume() {
        if (job_.resume && folder_->has_checkpoint()) {
            trainer_->load(folder_->checkpoint());
            say(cat(job_.out.string(), ": going on after step ", trainer_->step(), " of ", trainer_->total_steps()));
        } else {
            require_input(!job_.resume || !fs::exists(job_.out / "finished.json"), job_.out.string(),
                          ": this run has finished; there is nothing to resume");
        }
        folder_->rewind_metrics(trainer_->step());
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
        if (evaluates) {
            log = evaluation_->run(*start_.model, start_.tokenizer, cat(job_.out.string(), " evaluation ", n));
            const eval::Scores scores = evaluation_->score(*log);
            say(cat(job_.out.string(), " epoch ", n, ": ", score_line(scores)));
            result_.scores = {scores.begin(), scores.end()};
            note_candidate(n, scores);
        }
        write_folder(folder_->epoch(n), [&](const fs::path& temporary) {
            if (saves) write_model_to(temporary / "model");
            if (log) evaluation_->write(temporary, *log);
        });
        if (saves) result_.model = folder_->epoch(n) / "model";
    }

    void write_model_to(const fs::path& path) const {
        llama::write_model(path, start_.config, trainer_->masters(), start_.tokenizer.file(), job_.save_dtype);
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
                        ": no epoch is selected: that takes forget quality, so --tofu and --retain-log"));
            }
        } else {
            write_model_to(job_.out / "model");
            result_.model = job_.out / "model";
        }
        write_json(job_.out / "finished.json", Json{{"steps", result_.steps}, {"loss", result_.loss}});
        fs::remove_all(folder_->checkpoint());  // three times the model's size, and of no more use
    }

    const TrainingJob& job_;
    LoadedModel start_;
    std::unique_ptr<llama::Llama> reference_;
    std::optional<Trainer> trainer_;
    std::optional<RunFolder> folder_;
    std::optional<Evaluation> evaluation_;
    std::vector<Candidate> candidates_;
    double starting_utility_ = 0;
    std::int64_t first_ = 0;  // steps before those of this call
    double tokens_ = 0, seconds_ = 0;
    std::optional<Profiling> profiling_;
    std::int64_t resumed_ = -1;  // the steps before those that the profile takes now
    TrainingResult result_;
};

}  // namespace

TrainingResult run_training(const TrainingJob& job, const std::string& config) { return Run(job, config).go(); }

}  // namespace uipe::unlearn
