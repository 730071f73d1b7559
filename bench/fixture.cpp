#include "bench/fixture.h"

#include "bench/data.h"
#include "bench/tofu_task.h"
#include "llama/generate.h"
#include "llama/weights.h"
#include "tensor/base/json.h"

namespace uipe::bench {
namespace {

Json step_ids() {
    Json out = Json::array();
    for (const llama::Sequence& s : step_sequences(small_model().config)) out.push_back(s.ids);
    return out;
}

Json answer(const TofuTask& task, const std::string& question, const std::string& text, const eval::AnswerScore& s) {
    const llama::Sequence sequence = llama::encode_qa(task.tokenizer, task.options.form, question, text, 513);
    return {{"ids", sequence.ids}, {"first_target", sequence.first_target}, {"avg_loss", s.avg_loss}};
}

Json row(const TofuTask& task, const eval::QaRow& qa, const eval::RowScore& score) {
    Json answers = Json::array();
    answers.push_back(answer(task, qa.question, qa.answer, score.answer));
    answers.push_back(answer(task, qa.question, qa.paraphrased_answer, score.paraphrase.value()));
    for (std::size_t i = 0; i < qa.perturbed_answers.size(); ++i)
        answers.push_back(answer(task, qa.question, qa.perturbed_answers[i], score.perturbed.at(i)));
    return {{"prompt", llama::encode_prompt(task.tokenizer, task.options.form, qa.question)}, {"answers", answers}};
}

Json tofu_rows(const TofuTask& task) {
    const llama::Llama model(small_model().config, weights_of(small_model(), tensor::DType::f32));
    const eval::EvalLog log = task.run(model);
    Json out = Json::array();
    for (std::size_t i = 0; i < task.sets.forget.size(); ++i)
        out.push_back(row(task, task.sets.forget[i], log.forget.rows.at(i)));
    for (std::size_t i = 0; i < task.sets.retain.size(); ++i)
        out.push_back(row(task, task.sets.retain[i], log.retain.rows.at(i)));
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Json& r : out) prompts.push_back(r["prompt"].get<std::vector<std::int32_t>>());
    llama::GenerateOptions options;
    options.max_new_tokens = task.options.max_new_tokens;
    const auto generated = llama::generate(model, prompts, options);
    for (std::size_t i = 0; i < out.size(); ++i) out[i]["new"] = generated[i];
    return out;
}

}  // namespace

void write_fixture(const fs::path& folder) {
    fs::create_directories(folder);
    for (const NamedModel* model : {&small_model(), &large_model()})
        llama::write_model(folder / model->name, model->config, weights_of(*model, tensor::DType::f32));
    write_json(folder / "step.json", step_ids());
    write_json(folder / "rows.json", Json(qa_lengths(64)));
    if (const auto task = tofu_task()) write_json(folder / "tofu.json", tofu_rows(*task));
}

}  // namespace uipe::bench
